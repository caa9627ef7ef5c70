"""RHO-LOSS with Accelerate, on any number of processes.

torchrun --nproc-per-node 2 examples/accelerate_two_processes.py
"""

import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

import rho_train
from rho_train.integrations import EveryRank
from rho_train.tasks import letters

accelerator = Accelerator(cpu=True)
task = letters(noise=0.1)
data = rho_train.IndexedDataset(task.train)
store = rho_train.crossfit_il(lambda seed: nn.Linear(16, 26), data, 2, rho_train.ILRecipe(epochs=1))

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 26))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = torch.utils.data.DataLoader(data, batch_size=160, shuffle=True, drop_last=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

selector = rho_train.Selector(il=store, ratio=0.1, history=rho_train.History(len(data)))
# Accelerate saves custom states of the first process alone.
accelerator.register_for_checkpointing(EveryRank(selector))
for batch in loader:
    small = selector(model, batch)
    loss = F.cross_entropy(model(small.x), small.y)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()

seen = selector.history.seen.clone()
(folder,) = broadcast_object_list([tempfile.mkdtemp() if accelerator.is_main_process else None])
accelerator.save_state(folder)
accelerator.wait_for_everyone()
accelerator.load_state(folder)
assert torch.equal(selector.history.seen, seen)

x, y = task.test[:]
accuracy = (model(x).argmax(1) == y).float().mean()
print(
    f"process {accelerator.process_index} saw {int(seen.sum())} examples and selected "
    f"{selector.selected}, test accuracy {accuracy:.1%}"
)
accelerator.end_training()
