"""RHO-LOSS in a plain PyTorch loop, on scanned letters: python examples/plain_loop.py."""

import torch
import torch.nn.functional as F
from torch import nn

import rho_train
from rho_train.tasks import letters

task = letters(noise=0.1)
data = rho_train.IndexedDataset(task.train)

# Irreducible losses by small models that never saw the examples that they score.
store = rho_train.crossfit_il(lambda seed: nn.Linear(16, 26), data, 2, rho_train.ILRecipe(epochs=3))

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 26))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = torch.utils.data.DataLoader(data, batch_size=320, shuffle=True, drop_last=True)
selector = rho_train.Selector(il=store, ratio=0.1)
for _ in range(5):
    for batch in loader:
        small = selector(model, batch)
        loss = F.cross_entropy(model(small.x), small.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

x, y = task.test[:]
accuracy = (model(x).argmax(1) == y).float().mean()
print(f"{selector.steps} steps of 32 examples, test accuracy {accuracy:.1%}")
