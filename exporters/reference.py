"""The original model as a function of the same feeds as the graph: transformers' own forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.text_encoder import OUTPUTS
from edgeq.types import Feeds, Outputs, Task

if TYPE_CHECKING:
    import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch in one thread for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def original(
    model: Any, task: Task, sentence_head: torch.nn.Module | None = None
) -> Callable[[Feeds], Outputs]:
    """Run a transformers model on numpy feeds.

    The mask goes in as it is, `[batch, sequence]` integers, and positions are the model's own business:
    nothing of the arithmetic that the exported graph does instead is shared with this function, save the
    sentence head. It runs in one thread: how torch divides sums among threads changes their last bits, and with them
    the bytes of golden vectors.
    """
    import torch

    def run(feeds: Feeds) -> Outputs:
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        with torch.inference_mode(), one_thread():
            try:
                output = model(**tensors)
            except (IndexError, RuntimeError) as error:
                shapes = {name: list(array.shape) for name, array in feeds.items()}
                raise ModelError(
                    f"the original model cannot run inputs of shapes {shapes}: {error}",
                    hint="its tokenizer may be that of another model",
                ) from error
            if sentence_head is not None:
                mask = tensors["attention_mask"].float()
                return {OUTPUTS[task][0]: sentence_head(output.last_hidden_state, mask).numpy()}
            return {name: getattr(output, name).numpy() for name in OUTPUTS[task]}

    return run
