"""RHO-LOSS in a plain loop on several processes, which select together from all their examples.

torchrun --nproc-per-node 2 examples/ddp.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import rho_train
from rho_train.tasks import letters

dist.init_process_group("gloo")  # "nccl" on GPUs, after torch.cuda.set_device
rank, world = dist.get_rank(), dist.get_world_size()

task = letters(noise=0.1)
data = rho_train.IndexedDataset(task.train)
# Each process computes it; a folder= that all see shares the work.
store = rho_train.crossfit_il(lambda seed: nn.Linear(16, 26), data, 2, rho_train.ILRecipe(epochs=1))

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 26))
model = DistributedDataParallel(net)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
sampler = rho_train.LargeBatchSampler(len(data), 320, seed=0, rank=rank, world=world)
selector = rho_train.Selector(il=store, ratio=0.1, scope="global")
for step, batch in enumerate(rho_train.loader(data, sampler)):  # this rank's part, without end
    small = selector(model, batch)  # its examples among the best 32 of all
    losses = F.cross_entropy(model(small.x), small.y, reduction="none")
    # A rank selects any number of examples: the weights make the mean one over all 32.
    loss = (selector.last.weights * losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 99:
        break

x, y = task.test[:]
accuracy = (model(x).argmax(1) == y).float().mean()
if rank == 0:
    print(f"{selector.steps} steps of 32 examples, test accuracy {accuracy:.1%}")
dist.destroy_process_group()
