"""Find wrong labels in your own data: python examples/find_wrong_labels.py."""

import torch
from torch import nn

import rho_train
from rho_train.tasks import letters

# Your data: any map-style data set of (x, y). Here a tenth of the labels is drawn at random.
task = letters(noise=0.1)
names, planted = task.classes, task.flags["noisy"]
data = rho_train.IndexedDataset(task.train)

# Your model, one a fold: each scores the examples that it did not train on.
models: dict[int, nn.Module] = {}


def make_model(seed: int) -> nn.Module:
    models[seed] = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 26))
    return models[seed]


torch.manual_seed(0)
recipe = rho_train.ILRecipe(epochs=4, batch_size=128)
store = rho_train.crossfit_il(make_model, data, 2, recipe)
assert store.fold is not None

suspects = rho_train.find_wrong_labels(store)
print("row    label  model says  IL")
for row in suspects[:20].tolist():
    x, y, _ = data[row]
    model = models[recipe.seed + int(store.fold[row])]
    with torch.no_grad():
        says = int(model(x.unsqueeze(0)).argmax())
    print(f"{row:<6} {names[int(y)]:6} {names[says]:11} {float(store.il[row]):.1f}")

right = planted[suspects].float().mean()
found = planted[suspects].sum() / planted.sum()
print(f"{len(suspects)} look wrong; {right:.0%} of them are, and {found:.0%} of all wrong ones")
