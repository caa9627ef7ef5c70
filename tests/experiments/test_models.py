from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from experiments.classification import ClassificationData
from experiments.models import MODELS, Pixels, build_model, transformer
from rho_train.tasks import cnn

N, CLASSES = 6, 3


def data_of(kind: str) -> ClassificationData:
    draw = torch.Generator().manual_seed(0)
    x: dict[str, Callable[[], Tensor]] = {
        "features": lambda: torch.randn(N, 5, generator=draw),
        "image": lambda: torch.randint(0, 256, (N, 2, 16, 9), generator=draw).to(torch.uint8),
        "text": lambda: torch.randint(1, 30, (N, 7), generator=draw),
    }
    y = torch.arange(N) % CLASSES
    inputs = x[kind]()
    return ClassificationData(
        train_x=inputs,
        train_y=y,
        test_x=inputs,
        test_y=y,
        num_classes=CLASSES,
        name=f"some {kind}",
        kind=kind,  # type: ignore[arg-type]
        words=tuple(map(str, range(30))),
    )


CASES = [(name, kind) for name, model in MODELS.items() for kind in model.reads]


def state(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_seed_gives_the_weights_and_nothing_else_does(name: str, kind: str) -> None:
    before = torch.get_rng_state()
    data = data_of(kind)
    one, same, other = (build_model(name, data, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(state(one), state(same))
    assert not torch.equal(state(one), state(other))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_model_can_learn_what_it_is_given(name: str, kind: str) -> None:
    data = data_of(kind)
    model = build_model(name, data, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        loss = nn.functional.cross_entropy(model(data.train_x), data.train_y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step == 0:
            assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
        optimizer.step()
    assert model(data.train_x).argmax(1).equal(data.train_y)


@pytest.mark.parametrize("name", ["embedding_bag", "transformer"])
def test_padding_changes_nothing(name: str) -> None:
    model = build_model(name, data_of("text"), seed=0).eval()
    words = torch.tensor([[4, 9, 2]])
    padded = torch.tensor([[4, 9, 2, 0, 0, 0, 0]])
    torch.testing.assert_close(model(words), model(padded))
    assert not torch.allclose(model(words), model(torch.tensor([[4, 9, 2, 1, 0, 0, 0]])))
    # A text without a known word must not become NaN, which would rank as unknown for ever.
    assert bool(model(torch.zeros(2, 7, dtype=torch.int64)).isfinite().all())


def test_a_transformer_sees_the_order_of_words() -> None:
    model = transformer(30, 3, 2, seed=0).eval()
    assert not torch.allclose(model(torch.tensor([[4, 9, 2]])), model(torch.tensor([[9, 4, 2]])))


def test_pixels_are_normalised_as_in_the_paper() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    # (x / 255 - 0.5) / 0.5
    torch.testing.assert_close(Pixels()(pixels), torch.tensor([-1.0, -0.6, 1.0]))


def test_widths_are_those_that_were_asked_for() -> None:
    for name, kind in CASES:
        widths = (48, 48)
        model = build_model(name, data_of(kind), widths, seed=0)
        assert state(model).numel() != state(build_model(name, data_of(kind), seed=0)).numel()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_model("rnn", data_of("text"), seed=0), "one of mlp, cnn.*got 'rnn'"),
        (lambda: build_model("cnn", data_of("text"), seed=0), "text; choose embedding_bag, trans"),
        (lambda: build_model("mlp", data_of("image"), [8, 0], seed=0), r"positive, got \[8, 0\]"),
        (lambda: build_model("cnn", data_of("image"), seed=0, dropout=0.1), "cnn has no dropout"),
        (lambda: cnn((1, 4, 4), 2, [8, 8, 8, 8], seed=0), "4 x 4 pixels cannot be halved 3 times"),
        (lambda: transformer(9, 4, 2, [16, 32], seed=0), r"equal multiples .* got \[16, 32\]"),
        (lambda: transformer(9, 4, 2, [20], seed=0), r"multiples of 16"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
