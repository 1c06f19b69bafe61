"""What the decoder's current forward pass is: who chooses a token in it, and what that token sees.

Interventions act on a few queries of a pass (those whose output chooses the next token) and
want to know which of the keys before them are image tokens. The engines (`prefix` for
prompts and scored answers, `decode` for steps) announce each pass before they call the
decoder; a stock `model(**inputs)` or `model.generate(...)` announces itself through hooks
that live as long as somebody listens. A pass is described when it is first asked for, so an
announcement costs a look into a dictionary when nobody listens, and little when nobody asks.

What is announced belongs to the model: one thread at a time may run a model that is
listened to. Different models are independent.

Names: Q acting queries, S keys, G sequences of the pass and T its tokens, B sequences of a
stock batch, R rows of an engine, P image tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from weakref import WeakKeyDictionary, ref

import torch

from sightline.errors import InterventionError

if TYPE_CHECKING:
    from sightline.models.encoding import EncodedRow
    from sightline.models.prefix import Packed
    from sightline.models.vlm import Vlm


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of the decoder. All tensors are on the model's device.

    An acting query is a token whose output chooses the next one: a row's last prompt token,
    each decoded token, and in scoring every answer token but the last. Rows that share a
    whole path of a packed prefix share its acting query, so no (group, place) stands twice.
    """

    phase: Literal["prefill", "decode"]
    group_Q: torch.Tensor
    """The sequence of the pass (its batch axis) in which the query lies."""
    place_Q: torch.Tensor
    """Its place on the token axis."""
    image_QS: torch.Tensor
    """bool: the image tokens that the query sees among the keys; none for a text-only row."""
    visible_QS: torch.Tensor
    """bool: all keys that the query sees, itself included."""
    answer_Q: torch.Tensor
    """bool: the query is a token of an answer (decoded now, or given and scored)."""


Make = Callable[[], Pass]

_LISTENING: WeakKeyDictionary[Any, Passes] = WeakKeyDictionary()
"""Model -> who listens to it."""


def announce(model: Any, make: Make) -> None:
    """Say what the next forward pass of this model's decoder is; an engine's last act before it.

    `make` is called at most once, during the pass, so it must hold what it needs by value.
    """
    passes = _LISTENING.get(model)
    if passes is not None:
        passes.announced(make)


@contextmanager
def listening(vlm: Vlm) -> Iterator[Passes]:
    """Know the current pass of this model's decoder inside the `with`; nests (one listener, shared).

    Hooks on the decoder and its embeddings let stock calls announce themselves, with left or
    right padding and with beams; they are gone afterwards.
    """
    outer = _LISTENING.get(vlm.model)
    if outer is not None:
        yield outer
        return
    passes = Passes(vlm.image_token_id, vlm.adapter.attention_window(vlm.adapter.decoder(vlm.model).config))
    with ExitStack() as stack:
        for handle in passes.hooked(vlm.adapter.embeddings(vlm.model), vlm.adapter.decoder(vlm.model)):
            stack.callback(handle.remove)
        stack.callback(_LISTENING.pop, vlm.model, None)
        _LISTENING[vlm.model] = passes
        yield passes


class Passes:
    """The listener: `current` is the pass under way."""

    def __init__(self, image_token_id: int, window: int | None):
        self.forwards = 0
        """Forward passes of the decoder so far."""
        self.saw_image = False
        """Whether any of them was shown an image."""
        self._image_token_id, self._window = image_token_id, window
        self._make: Make | None = None
        self._pass: Pass | None = None
        self._under_way = False
        self._embedded_BT: torch.Tensor | None = None
        self._prefill = _Prefill()

    @property
    def current(self) -> Pass:
        """The pass under way. Raises InterventionError outside one, or when it cannot be described."""
        if self._pass is None:
            if self._make is None:
                raise InterventionError(
                    expected="a forward pass under way",
                    got="none",
                    hint="ask from inside a hook of the decoder",
                )
            self._pass = self._make()
        return self._pass

    def announced(self, make: Make) -> None:
        """Take an engine's announcement."""
        self._make, self._pass = make, None

    def hooked(self, embeddings: Any, decoder: Any) -> Iterator[Any]:
        """Attach to a decoder; yields the handles that detach."""
        yield embeddings.register_forward_pre_hook(self._embed)
        yield decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        # Also when a pass ends early by an exception, as `capture` ends them.
        yield decoder.register_forward_hook(self._end, always_call=True)

    def _embed(self, module: Any, args: tuple[Any, ...]) -> None:
        # A decoder that is given ids embeds them itself; all others are given embeddings, and then
        # what was announced before this is over.
        if not self._under_way:
            self._make = self._pass = None
        self._embedded_BT = args[0] if args[0].ndim == 2 else self._embedded_BT
        if not self.saw_image:
            self.saw_image = bool((args[0] == self._image_token_id).any())

    def _begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.forwards += 1
        if self._make is None:
            self._make = self._stock(kwargs)
        self._under_way = True

    def _end(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        self._make = self._pass = None
        self._under_way = False

    def _stock(self, kwargs: dict[str, Any]) -> Make:
        """A pass that no engine announced. What cannot be described is refused when it is asked for."""
        cache = kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        embeds, mask_BS = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        ids_BT = self._embedded_BT if embeds is not None else kwargs.get("input_ids")
        if embeds is None and ids_BT is not None:
            embeds = ids_BT
        if embeds is None or ids_BT is None or (past and embeds.shape[1] > 1):
            return partial(_refuse, "whole prompts, then one token a step", "another kind of forward pass")
        rows, length = embeds.shape[:2]
        if (cache is not None and cache.is_compileable) or (
            isinstance(mask_BS, torch.Tensor) and mask_BS.ndim > 2
        ):
            return partial(
                _refuse, "a dynamic cache and a 2-D attention mask", "a static cache or a wider mask"
            )
        if self._window is not None and past + length > self._window:
            return partial(_refuse, f"sequences within the window of {self._window}", str(past + length))
        if mask_BS is None:
            mask_BS = torch.ones((rows, past + length), dtype=torch.bool, device=embeds.device)
        if not past:
            self._prefill = _Prefill(
                ids_BT == self._image_token_id, ref(cache) if cache is not None else None
            )
        return partial(self._prefill.described, mask_BS, past, cache)


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Where the images are in the last stock prompts, for the steps that follow."""

    image_BT: torch.Tensor | None = None
    cache: ref[Any] | None = None

    def described(self, mask_BS: torch.Tensor, past: int, cache: Any) -> Pass:
        """The pass over the prompts (`past` 0) or one step after them."""
        visible_BS, image_BT, rows = mask_BS.bool(), self.image_BT, len(mask_BS)
        elsewhere = self.cache is not None and self.cache() is not cache
        if image_BT is None or elsewhere or 0 < past < image_BT.shape[1] or rows % len(image_BT):
            _refuse("the prompts' own pass before a step", "a cache that was filled elsewhere")
        image_BS = torch.zeros_like(visible_BS)
        # Beams and samples of one prompt stand together, and their reordering stays among them.
        image_BS[:, : image_BT.shape[1]] = image_BT.repeat_interleave(rows // len(image_BT), 0)
        group_Q = torch.arange(rows, device=mask_BS.device)
        answer_Q = torch.full_like(group_Q, past > 0, dtype=torch.bool)
        if past:
            places = torch.zeros_like(group_Q)
            return Pass("decode", group_Q, places, image_BS & visible_BS, visible_BS, answer_Q)
        # The last token that is no padding, on whichever side the padding is.
        slots = torch.arange(mask_BS.shape[1], device=mask_BS.device)
        places = torch.where(visible_BS, slots, -1).amax(1).clamp(min=0)
        return Pass("prefill", group_Q, places, image_BS & visible_BS, visible_BS, answer_Q)


def prompt_pass(rows: Sequence[EncodedRow], packed: Packed, image_token_id: int, device: Any) -> Pass:
    """The pass over packed rows, prompts or prompts with answers (`prefix.SharedForward`)."""
    acting: dict[tuple[int, int], bool] = {}
    for row, group, path in zip(rows, packed.group_R, packed.path_R, strict=True):
        answer = row.spans.answer
        for place in path[answer.start - 1 : max(answer.start, answer.stop - 1)].tolist():
            acting[group, place] = place != path[answer.start - 1]
    group_Q = torch.tensor([group for group, _ in acting], dtype=torch.long)
    place_Q = torch.tensor([place for _, place in acting], dtype=torch.long)
    if packed.visible_GTT is None:
        visible_QS = torch.arange(packed.ids_GT.shape[1]) <= place_Q[:, None]
    else:
        visible_QS = packed.visible_GTT[group_Q, place_Q]
    image_QS = visible_QS & (packed.ids_GT == image_token_id)[group_Q]
    answer_Q = torch.tensor(list(acting.values()), dtype=torch.bool)
    tensors = (group_Q, place_Q, image_QS, visible_QS, answer_Q)
    return Pass("prefill", *(tensor.to(device) for tensor in tensors))


def step_pass(images_RP: torch.Tensor, starts_R: torch.Tensor, length: int) -> Pass:
    """One decoding step of rows whose keys end at slot `length`, the new token's included.

    `images_RP` and `starts_R` are `cache.RowCache`'s.
    """
    rows_R = torch.arange(len(starts_R), device=starts_R.device)
    slots = torch.arange(length, device=starts_R.device)
    # What stands for no image token goes to one more slot, which is cut off.
    marks_RP = torch.where(images_RP >= 0, images_RP + starts_R[:, None], length)
    image_RS = torch.zeros((len(starts_R), length + 1), dtype=torch.bool, device=starts_R.device)
    image_RS = image_RS.scatter(1, marks_RP, True)[:, :length]
    visible_RS = slots >= starts_R[:, None]
    answers_R = torch.ones_like(rows_R, dtype=torch.bool)
    return Pass("decode", rows_R, torch.zeros_like(rows_R), image_RS, visible_RS, answers_R)


def _refuse(expected: str, got: str) -> NoReturn:
    hint = "answer through Vlm, or through stock generate with a dynamic cache"
    raise InterventionError(expected=expected, got=got, hint=hint)
