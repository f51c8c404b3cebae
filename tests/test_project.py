"""The project itself: who imports whom, what the containers are built from, and how long files get."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ad_hf"
FACE = {"__init__", "__main__"}  # the public face of the package, which may import every stage

# A stage imports from stages further left; stages with a bar between them do not know each other.
ORDER = (
    "models | tasks | folders < cards < hub | envs | sources < histories | loading < dataset"
    " < collection | streaming < windows < evaluation < checkpoints < training | report"
    " < recipes < runs < cli"
)
LEVELS = {stage.strip(): level for level, row in enumerate(ORDER.split("<")) for stage in row.split("|")}
ALLOWED = {  # all that a stage imports beyond the standard library
    "models": {"torch", "transformers", "huggingface_hub", "ad_hf.models"},
    "sources": {"numpy", "torch", "gymnasium", "ad_hf.sources"},
    "envs": {"numpy", "gymnasium", "ad_hf.envs", "ad_hf.tasks"},
}
# Library -> the only stage that imports it.
HOMES = {"datasets": "dataset", "matplotlib": "report", "typer": "cli"}


def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """All of a file, those inside functions and `if TYPE_CHECKING` too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> set[str]:
    """What a file imports: libraries by name, our own stages as `ad_hf.<stage>`."""
    names = []
    for node in import_statements(path):
        origin = []
        if isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            origin = [*package, *filter(None, [node.module])]
        names += [".".join([*origin, alias.name]) for alias in node.names]
    return {".".join(name.split(".")[: 2 if name.startswith("ad_hf.") else 1]) for name in names}


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [(str(path.relative_to(ROOT)), stage_of(path), name) for path in FILES for name in imported(path)]


def test_every_module_is_a_stage_of_the_route():
    assert {stage_of(path) for path in FILES} - FACE <= LEVELS.keys()


def test_imports_go_downwards():
    ours = [row for row in IMPORTS if row[1] not in FACE and row[2].startswith("ad_hf.")]
    assert ours
    for path, stage, name in ours:
        used = name.removeprefix("ad_hf.")
        if used == "__version__":
            continue
        assert used == stage or LEVELS.get(used, len(LEVELS)) < LEVELS[stage], f"{path} imports {name}"


def test_models_sources_and_envs_stand_on_few_libraries():
    theirs = [row for row in IMPORTS if row[1] in ALLOWED and row[2] not in sys.stdlib_module_names]
    assert [(path, name) for path, stage, name in theirs if name not in ALLOWED[stage]] == []


def test_model_files_find_each_other_on_the_hub():
    # Checkpoints carry them flat, to where neither ad_hf nor a parent package exists.
    for path in PACKAGE.glob("models/[!_]*.py"):
        for statement in map(ast.unparse, import_statements(path)):
            assert not re.search(r"(from|import) (ad_hf\b|\.\.)", statement), f"{path.name}: {statement}"


def test_libraries_that_cost_or_clash_have_one_home():
    assert [(path, name) for path, stage, name in IMPORTS if name in HOMES and stage != HOMES[name]] == []


def test_matplotlib_is_not_imported_before_a_figure_is_drawn():
    body = ast.parse((PACKAGE / "report.py").read_text()).body
    top = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("matplotlib" in statement for statement in top)


def test_nothing_is_pickled():
    files = [path for folder in ("ad_hf", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [path.relative_to(ROOT) for path in files if "pickle" in imported(path)] == []


def build_stages() -> dict[str, list[list[str]]]:
    """Stages of the Dockerfile by name, each a list of instructions, each a list of words."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    parts = re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]
    stages = [[line.split() for line in part.splitlines() if line] for part in parts]
    return {stage[0][-1]: stage for stage in stages}


def test_containers_are_built_from_files_that_exist():
    copies = [words[1:-1] for stage in build_stages().values() for words in stage if words[0] == "COPY"]
    sources = [source for words in copies if not words[0].startswith("--from=") for source in words]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_base_images_are_pinned():
    images = [stage[0][1] for stage in build_stages().values()]
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+", image)] == []


def test_containers_do_not_run_as_root():
    for target in ("cpu", "cuda"):
        users = [words[1] for words in build_stages()[target] if words[0] == "USER"]
        assert users, f"{target} runs as whoever its base image does"
        assert users[-1].split(":")[0] not in ("root", "0")


def test_files_can_be_read_in_one_sitting():
    files = [path for folder in ("ad_hf", "scripts", "tests", "cards") for path in (ROOT / folder).rglob("*")]
    lines = {
        path: path.read_text().count("\n") for path in files if path.suffix in (".py", ".md", ".sh", ".yaml")
    }
    assert {path.relative_to(ROOT): count for path, count in lines.items() if count > 600} == {}
