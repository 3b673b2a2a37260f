"""From what was measured to a profile."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl import codec, ops
from sparsefl.nn._support_layer import SupportLayer
from sparsefl.ops import _dispatch
from sparsefl.profiling import memory, wire
from sparsefl.profiling.network import Call
from sparsefl.profiling.result import Factor, LayerProfile, Parts, Profile, StepProfile
from sparsefl.profiling.study import Study
from sparsefl.profiling.verdict import DENSE, RECOMMENDED, SPARSE
from sparsefl.profiling.weights import ALONE, Weight, slower, without_weight
from sparsefl.timing import StepTime

_FORMS = (DENSE, SPARSE, RECOMMENDED)


def assemble(study: Study) -> Profile:
    """Count memory and bytes, and put them beside the times."""
    study.budget.enter("counting")
    schema = codec.Schema.of(study.dense)
    entries = {form: wire.entries_of(study.steps[form].model) for form in _FORMS}
    whole = {form: _whole(study, form, entries[form], schema) for form in _FORMS}
    measured = [weight for weight in study.weights if weight.samples]
    silent = [(w.names[0], w.reason) for w in study.weights if not w.samples]
    candidates = [weight for weight in study.weights if weight.candidate]
    layers = tuple(_one(study, weight, entries, schema) for weight in measured)
    return Profile(
        settings=_settings(study),
        layers=layers,
        unmeasured=(*silent, *without_weight(study.dense, study.weights)),
        dense=whole[DENSE],
        sparse=whole[SPARSE],
        recommended=whole[RECOMMENDED],
        notes=(*study.notes, *_layouts(layers), *_reading(measured, whole[DENSE])),
        masks={w.group.names[0]: _mask(w) for w in candidates if w.use},
        all_masks={w.group.names[0]: _mask(w) for w in candidates},
    )


def _mask(weight: Weight) -> Tensor:
    assert weight.support is not None
    return weight.support.to_mask()


def _whole(
    study: Study, form: str, entries: Mapping[str, codec.Entry], schema: codec.Schema
) -> StepProfile:
    step, taken = study.steps[form], study.samples[form]
    return StepProfile(
        time=StepTime.of(taken),
        factor=None if form == DENSE else Factor.of(study.samples[DENSE], taken),
        parameters=sum(parameter.numel() for parameter in step.model.parameters()),
        memory=memory.count([step.model], step.optimizer, step.forward, step.inputs),
        uplink_bytes=wire.message_bytes(entries, schema),
        setup_bytes=wire.setup_bytes(wire.supports_of(entries).values()),
        repetitions=int(np.isfinite(taken).sum()),
    )


def _one(
    study: Study,
    weight: Weight,
    entries: Mapping[str, Mapping[str, codec.Entry]],
    schema: codec.Schema,
) -> LayerProfile:
    names, taken, places = weight.names, weight.samples, list(weight.group.layers)
    dense = study.steps[DENSE]
    sparse = study.steps[SPARSE] if weight.candidate else None
    times = {name: StepTime.of(seconds[-1]) for name, seconds in taken.items()}
    layer = study.dense.get_submodule(names[0])
    return LayerProfile(
        name=names[0],
        weight=weight.group.names[0],
        kind=type(layer).__name__,
        shape=weight.shape,
        verdict="use it" if weight.use else "stay dense",
        reason="" if weight.use else weight.reason or slower(weight),
        density=None if weight.support is None else weight.support.density,
        dense_parameters=_parameters(dense.model, names),
        kept_parameters=None if sparse is None else _parameters(sparse.model, names),
        dense_time=times[DENSE],
        sparse_time=times.get(SPARSE),
        alone_time=times.get(ALONE, times.get(SPARSE)),
        dense_parts=Parts.of(taken[DENSE]),
        sparse_parts=None if sparse is None else Parts.of(taken[SPARSE]),
        factor=None if sparse is None else Factor.of(taken[DENSE][-1], taken[SPARSE][-1]),
        dense_memory=_layer_memory(study, DENSE, names, weight.dense_calls),
        sparse_memory=(
            None if sparse is None else _layer_memory(study, SPARSE, names, weight.sparse_calls)
        ),
        dense_uplink_bytes=wire.layer_bytes(entries[DENSE], places, schema),
        sparse_uplink_bytes=(
            None if sparse is None else wire.layer_bytes(entries[SPARSE], places, schema)
        ),
        setup_bytes=(
            None if sparse is None or weight.support is None else wire.setup_bytes([weight.support])
        ),
        repetitions=int(np.isfinite(taken[DENSE][-1]).sum()),
        layout=None if sparse is None else _layout(sparse.model.get_submodule(names[0])),
    )


def _layout(layer: nn.Module) -> str:
    """Say what a sparse layer's calls in the network were computed with, and why."""
    assert isinstance(layer, SupportLayer)
    choices = [*layer.plan.choices.values()]
    passes = [] if layer.plan.kernels is None else [*layer.plan.kernels.chosen.values()]
    return "; ".join(dict.fromkeys(map(str, (*choices, *passes))))


def _layouts(layers: Sequence[LayerProfile]) -> list[str]:
    """Say which sparse layers compute densely inside."""
    inside = [f"{la.name or 'the model'}: {la.layout}" for la in layers if la.layout]
    dense = [line for line in inside if _dispatch.DENSE in line]
    if not dense:
        return []
    return [
        f"Sparse layers that compute densely inside, {'; '.join(dense)}. `sparsefl info` says "
        "what that rests on."
    ]


def _parameters(model: nn.Module, names: list[str]) -> int:
    held = {id(p): p.numel() for n in names for p in model.get_submodule(n).parameters()}
    return sum(held.values())


def _layer_memory(study: Study, form: str, names: list[str], calls: list[Call]) -> memory.Memory:
    step = study.steps[form]
    layers = [step.model.get_submodule(name) for name in names]
    return memory.count(
        layers, step.optimizer, lambda: [call.layer(call.x) for call in calls], step.inputs
    )


def _settings(study: Study) -> dict[str, Any]:
    supports = [weight.support for weight in study.weights if weight.support is not None]
    kept, numel = sum(s.nnz for s in supports), sum(s.numel for s in supports)
    return {
        **circumstances(study),
        "density": study.density,
        "kept_density": kept / numel if numel else 1.0,
        "masks": study.masks_said,
        "optimizer": study.optimizer,
    }


def circumstances(study: Study) -> dict[str, Any]:
    """Return what was measured, on what, and how long that took."""
    batches = [i for i in study.inputs if isinstance(i, Tensor)]
    return {
        "model": study.kind,
        "inputs": [list(tensor.shape) for tensor in batches],
        "batch_size": batches[0].shape[0] if batches and batches[0].dim() else 1,
        "layer": study.layer,
        "threads": torch.get_num_threads(),
        "isa": ops.isa(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seconds": study.budget.elapsed_s,
    }


def _reading(measured: list[Weight], dense: StepProfile) -> list[str]:
    """Say how the numbers are to be read."""
    layers_s = sum(float(np.nanmedian(weight.samples[DENSE][-1])) for weight in measured)
    share = f"{layers_s * 1e3:.3g} of the dense step's {dense.time.median_s * 1e3:.3g} ms"
    return [
        "Times: medians of interleaved runs; a layer's are its forward, its backward and the "
        f"optimizer's step on it, {share} in all.",
        "sparse ms: in the network where all that can be is sparse; alone ms: between dense layers,"
        " conversions of the memory order included; factor: dense / sparse, run by run.",
        "MB: counted from the tensors of a step (weights, gradients, optimizer state, saved "
        "activations, indices of the kernels), not the process's peak, which adds scratch.",
        "Bytes: encoded messages of one client and round, fp32 values; the receiver has the masks "
        "since the set-up. A layer that stays dense is not pruned.",
        "Inputs are random unless given, the loss has no labels of yours, and accuracy is not "
        "looked at.",
    ]
