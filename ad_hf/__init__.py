"""ad-hf: Algorithm Distillation on Hugging Face.

Importing this package is cheap and makes two things work: `gymnasium.make("ad_hf/DarkRoom-v0")` and
`AutoModel.from_pretrained(...)` on an ad-hf checkpoint without remote code. Both are arranged when gymnasium
or the auto classes of transformers are imported, whichever comes first, so that `ad-hf --help` pays for
neither.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

PUBLIC = {  # name -> the module it lives in, imported when the name is first used
    "ADConfig": "ad_hf.models",
    "ADGenerationConfig": "ad_hf.models",
    "ADModel": "ad_hf.models",
    "Histories": "ad_hf.histories",
    "Recorder": "ad_hf.histories",
    "Task": "ad_hf.tasks",
    "TaskFamily": "ad_hf.tasks",
    "collect": "ad_hf.histories",
    "collect_dataset": "ad_hf.collection",
    "evaluate": "ad_hf.evaluation",
    "history_prompt": "ad_hf.evaluation",
    "load_histories": "ad_hf.dataset",
    "load_model": "ad_hf.loading",
    "load_recipe": "ad_hf.recipes",
    "load_task_family": "ad_hf.tasks",
    "make_vec": "ad_hf.tasks",
    "open_stream": "ad_hf.streaming",
    "train": "ad_hf.training",
}
__all__ = list(PUBLIC)

REGISTER_AFTER = {  # once the first has been imported, importing the second registers our classes with it
    "gymnasium.envs": "ad_hf.envs",
    "transformers.models.auto.configuration_auto": "ad_hf.models",
    "transformers.models.auto.modeling_auto": "ad_hf.models",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


class _RegisterAfterImport(MetaPathFinder):
    """Imports our side of `REGISTER_AFTER` when the other side has been imported.

    transformers' two auto modules import one another, so nothing is registered while either is still being
    imported.
    """

    def __init__(self) -> None:
        self._importing: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REGISTER_AFTER:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                self._importing.add(fullname)
                try:
                    run(module)
                finally:
                    self._importing.discard(fullname)
                if not any(REGISTER_AFTER[name] == REGISTER_AFTER[fullname] for name in self._importing):
                    importlib.import_module(REGISTER_AFTER[fullname])

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _RegisterAfterImport())
for _theirs, _ours in REGISTER_AFTER.items():
    if _theirs in sys.modules:
        importlib.import_module(_ours)
