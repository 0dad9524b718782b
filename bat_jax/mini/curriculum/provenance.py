"""What every stage of the mini training was made from, so that a stage whose settings or inputs changed is known.

    DIR/stages.json    stage -> {"id", "settings": {field: value}, "inputs": {stage: id}, "is_done"}

An id is drawn anew whenever a stage begins from nothing: what was made from an earlier one is stale. Settings are those
of the recipe's fields that the stage reads, without how often it logs and keeps its state.
"""

import dataclasses
import json
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from bat_jax.io.output_files import write_json
from bat_jax.runs import differing

STAGES_FILE = "stages.json"
_EXPORT = "export"
_NO_SETTINGS = ("checkpoint_every", "log_every", "eval_every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSource:
    """fields: of the recipe that a stage reads. inputs: stages whose results it reads. product: its last file, below
    the directory. leftover: what it would go on from.
    """

    fields: tuple[str, ...]
    inputs: tuple[str, ...]
    product: str
    leftover: str


def _trained(name: str, *inputs: str, fields: tuple[str, ...] = ()) -> StageSource:
    return StageSource(fields=(name, *fields), inputs=inputs, product=f"{name}.npz", leftover=f"stages/{name}")


_TRAINING = ("num_pictures", "num_held_out")
_WEIGHTS = ("importance_weight", "evidence_weight")
_LOOKUPS = ("lookup_pictures", "lookup_questions", "lookup_text_only", "lookup_noise", *_WEIGHTS)
_DATA = ("pictures", "questions")
SOURCES: Mapping[str, StageSource] = {
    "pictures": StageSource(
        fields=("num_pictures", "num_tower_pictures"), inputs=(), product="pictures/done.npy", leftover="pictures"
    ),
    "questions": StageSource(fields=("num_pictures", "num_rounds"), inputs=(), product="bank.npz", leftover="bank.npz"),
    "tower": _trained("tower", "pictures", fields=("tile_batch", "num_tower_pictures", *_TRAINING)),
    "features": StageSource(
        fields=("num_pictures",),
        inputs=("tower", "pictures"),
        product="features/regions.npy",
        leftover="features/done.npy",
    ),
    "options": _trained("options", "questions", fields=("option_batch", *_WEIGHTS)),
    "lookups": _trained("lookups", "options", *_DATA, fields=(*_LOOKUPS, *_TRAINING)),
    "word_bag": _trained(
        "word_bag", "lookups", "features", *_DATA, fields=("options", "word_bag_pictures", *_TRAINING)
    ),
    "attention": _trained(
        "attention",
        "lookups",
        "word_bag",
        "features",
        *_DATA,
        fields=("options", "attention_mix", *_LOOKUPS, *_TRAINING),
    ),
    "given": _trained("given", "attention", "features", *_DATA, fields=("given_mix", *_WEIGHTS, *_TRAINING)),
    "tokens": StageSource(
        fields=(), inputs=("given", "features"), product="features/tokens.npy", leftover="features/tokens.npy"
    ),
    "selected": _trained(
        "selected", "given", "tokens", "features", *_DATA, fields=("selected_mix", *_WEIGHTS, *_TRAINING)
    ),
    "mixed": _trained("mixed", "selected", "tokens", "features", *_DATA, fields=("mixed_mix", *_WEIGHTS, *_TRAINING)),
}


class Provenance:
    """The record of one directory."""

    def __init__(self, directory: pathlib.Path, recipe: Any):
        self.directory, self._recipe = directory, recipe

    def is_done(self, stage: str) -> bool:
        """Whether a stage's result is there, made from whatever."""
        return (
            self._stored().get(stage, {}).get("is_done", False) and (self.directory / SOURCES[stage].product).exists()
        )

    def problems(self, stage: str) -> list[str]:
        """Say why what there is of a stage, or of an input of its, is not what recipe and inputs would make now.

        "stage tower: was made with tile_batch: 64 -> 32"; empty where all is well, or nothing was begun.
        """
        found = [text for name in SOURCES[stage].inputs for text in self.problems(name)]
        own = self._stored().get(stage)
        if own is not None:
            now = json.loads(json.dumps(self._now(stage)))
            changes = list(differing(own["settings"], now["settings"]))
            if changes:
                found.append(f"stage {stage}: was made with other settings ({'; '.join(changes)})")
            stale = [name for name, id in now["inputs"].items() if id != own["inputs"].get(name)]
            if stale:
                found.append(f"stage {stage}: was made before {', '.join(stale)} was made anew")
        return list(dict.fromkeys(found))

    def check(self, stage: str) -> None:
        """Refuse to run a stage, or to leave it as it is, where it or its inputs are stale or inputs are missing.

        Raises:
          ValueError: says which stage and why.
        """
        problems = self.problems(stage)
        if problems:
            raise ValueError(f"{'; '.join(problems)}; give --remake, or another --work_dir")
        for name in SOURCES[stage].inputs:
            if not self.is_done(name):
                raise ValueError(f"stage {name} has not been run in {self.directory}")

    def begin(self, stage: str) -> None:
        """Record that a stage begins, or goes on if it has begun; one that begins finds nothing of an earlier one."""
        stored = self._stored()
        if stage not in stored or stored[stage]["is_done"]:
            write_json(self._file, {name: entry for name, entry in stored.items() if name != stage})
            leftover = self.directory / SOURCES[stage].leftover
            if leftover.is_dir():
                shutil.rmtree(leftover)
            leftover.unlink(missing_ok=True)
            stored[stage] = {"id": secrets.token_hex(4), **self._now(stage)}
        self._write(stored, stage, is_done=False)

    def finish(self, stage: str) -> None:
        """Record that a stage's result is complete."""
        self._write(self._stored(), stage, is_done=True)

    def forget(self, stage: str) -> None:
        """Have a stage made anew if it is stale or was made with other settings, and its inputs are not."""
        if self.problems(stage) and not any(self.problems(name) for name in SOURCES[stage].inputs):
            write_json(self._file, {name: entry for name, entry in self._stored().items() if name != stage})

    def has_exported(self, output: pathlib.Path, stages: Iterable[str]) -> bool:
        """Whether the checkpoint in `output` is, or was becoming when it broke off, what these stages make now."""
        return self._stored().get(_EXPORT) == self._export(output, stages)

    def begin_export(self, output: pathlib.Path, stages: Iterable[str]) -> None:
        """Record that a checkpoint is made of stages."""
        write_json(self._file, self._stored() | {_EXPORT: self._export(output, stages)})

    def _export(self, output: pathlib.Path, stages: Iterable[str]) -> dict[str, Any]:
        stored = self._stored()
        inputs = {name: stored.get(name, {}).get("id") for name in stages}
        return {"output": str(output.absolute()), "inputs": inputs}

    @property
    def _file(self) -> pathlib.Path:
        return self.directory / STAGES_FILE

    def _stored(self) -> dict[str, Any]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def _write(self, stored: dict[str, Any], stage: str, is_done: bool) -> None:
        write_json(self._file, stored | {stage: stored[stage] | {"is_done": is_done}})

    def _now(self, stage: str) -> dict[str, Any]:
        source, stored = SOURCES[stage], self._stored()
        values = dataclasses.asdict(self._recipe)
        settings = {name: values[name] for name in source.fields}
        for name, value in settings.items():
            if isinstance(value, dict):
                settings[name] = {key: item for key, item in value.items() if key not in _NO_SETTINGS}
        inputs = {name: stored.get(name, {}).get("id") for name in source.inputs}
        return {"settings": settings, "inputs": inputs}
