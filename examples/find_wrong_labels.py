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
def make_model(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 26))


torch.manual_seed(0)
recipe = rho_train.ILRecipe(epochs=4, batch_size=128)
store = rho_train.crossfit_il(make_model, data, 2, recipe)
assert store.labels is not None
assert store.predicted is not None

suspects = rho_train.find_wrong_labels(store)
print("row    label  predicted  IL")
for row in suspects[:20].tolist():
    label, predicted = names[store.labels[row]], names[store.predicted[row]]
    print(f"{row:<6} {label:6} {predicted:10} {store.il[row]:.1f}")

right = planted[suspects].float().mean()
found = planted[suspects].sum() / planted.sum()
print(f"{len(suspects)} look wrong; {right:.0%} of them are, and {found:.0%} of all wrong ones")
