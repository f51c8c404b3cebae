"""Bad input from the command line: each is refused in one line that names it and says what to do, at once.

Datasets are damaged in test_bad_histories.py, environments and arrays in test_bad_environments.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import assert_one_line, contents, invoke, sets

HUGE = 10**18
COLLECT = ["collect", "dark-room", "--output", "{output}"]
TRAIN = ["train", "dark-room", "--dataset", "{dataset}", "--output", "{output}"]
EVALUATE = ["evaluate", "{model}", "--no-ed", "--output", "{output}"]
GENERATE = ["generate", "{model}"]

# A setting that `collect` or `train` is given by --set -> what is said of it: the value, and the way out.
SETTINGS: dict[str, tuple[str, str]] = {}


def refuse(names: str, values: tuple[Any, ...], said: str, way_out: str) -> None:
    """Put all values of all settings in the table; `{name}` and `{value}` in what is said stand for them."""
    for name in names.split():
        section, _, last = name.rpartition(".")
        for value in values:
            text = value if isinstance(value, str) else json.dumps(value)
            shown = {"NaN": "nan", "Infinity": "inf"}.get(text, repr(value))
            known = {"section": section, "last": last, "name": name, "value": shown, "text": text}
            SETTINGS[f"{name}={text}"] = (said.format(**known), way_out.format(**known))


COUNTS = "train.updates train.batch_size train.accumulation train.log_every train.evaluate_episodes"
COUNTS += " train.keep_checkpoints"
WHOLE = f"{COUNTS} train.warmup train.evaluate_every train.checkpoint_every train.seed"
RATES = "train.learning_rate train.weight_decay train.beta2 train.max_grad_norm"
WEIGHTS = "windows.improvement_weight windows.stability_weight"
SHARES = "windows.token_mask windows.expert_share model.label_smoothing evaluate.prompt"
ODD = "{name} is {value}"

refuse(COUNTS, (0, -1), "{last} is {value}", "must be at least 1")
refuse("train.warmup train.evaluate_every train.seed", (-1,), "{last} is {value}", "must be at least 0")
refuse("train.updates train.warmup", (HUGE,), "{last} is {value}", "must be at most 99999999")
refuse("train.seed", (10**24,), "{last} is {value}", "must be at most 9223372036854775807")
refuse(WHOLE, (1.5, '"many"'), "{name} is", "must be of type int")
refuse(f"{RATES} {WEIGHTS} {SHARES}", ("NaN", "Infinity"), ODD, "must be a finite number")
refuse(f"{RATES} {SHARES}", ('"fast"', "null"), "{name} is", "must be of type float")
refuse("train.learning_rate", (0.0, -1.0, 1e18), "{last} is {value}", "must be above 0 and at most 1")
refuse("train.weight_decay", (-1.0, 1e18), "{last} is {value}", "must be from 0 to 10")
refuse("train.beta2", (1.0, -0.5), "{last} is {value}", "must be from 0 up to, not including, 1")
refuse("train.max_grad_norm", (0.0, -1.0), "{last} is {value}", "must be above 0 and at most 1e9")
refuse("train.mixed_precision", ('"fp16"', '"é"'), "{last} is", "must be 'no' or 'bf16'")
refuse("train.trackers", ("[7]", "[[]]"), "{name} is", "must be of type str")
refuse("train.compile windows.rename_actions", (1, '"yes"'), "{name} is", "must be of type bool")
refuse("windows.episode_stride", (0, -1, HUGE), "{last} is {value}", "at least 1 and at most 1000000")
refuse("windows.token_mask", (1.0, -0.1), "{last} is {value}", "from 0 up to, not including, 1")
refuse("windows.expert_share", (0.0, 1.5), "{last} is {value}", "must be above 0 and at most 1")
refuse(WEIGHTS, (-1.0, 1e18), "{last} is {value}", "at least 0 and at most 1000000")
refuse("windows.pool", (0, HUGE), "{last} is {value} histories", "at least 16 and at most 1000000")
refuse("model.context_length", (1, 0, -5), "{last} is {value} transitions", "must be at least 2")
refuse("model.context_length", (HUGE,), "a context of {value} transitions", "lower its sizes")
refuse("model.tokens_per_transition", (0, 2), "{last} is {value}", "must be 1 or 3")
refuse("model.label_smoothing", (1.0, -0.1), "{last} is {value}", "from 0 up to, not including, 1")
refuse("model.decoder", (7, "[]", "null"), "{name} is", "must be of type dict")
refuse(
    "model.decoder.hidden_size model.decoder.num_hidden_layers model.decoder.num_attention_heads "
    "model.decoder.intermediate_size model.decoder.vocab_size",
    (0, -1),
    "{last}={value}",
    "must have at least 1",
)
refuse("model.decoder.hidden_size", (HUGE, "NaN"), "{last}={value}", "at most 2147483648 makes sense")
refuse("model.decoder.num_hidden_layers", (100_000,), "{last}={value}", "at most 10000 makes sense")
refuse(
    "model.decoder.attention_dropout model.decoder.hidden_dropout",
    (2, "-0.5"),
    "{last}={text}",
    "from 0 up to, not including, 1",
)
refuse("model.decoder.layer_norm_eps", ("NaN",), "{last}={value}", "at most 10000 makes sense")
refuse("model.decoder.hidden_act", ('"magic"',), '"{last}": "magic"', "change it")
refuse("model.decoder.model_type", ('"bert-ish"', 7), "the decoder is '", "no causal model of transformers")
refuse("model.decoder.max_position_embeddings", (5,), "5 positions", "max_position_embeddings=100")
refuse("model.decoder.width", (5,), "no setting {name}", "choose one of model_type")
refuse(
    "evaluate.num_episodes evaluate.rollouts_per_task evaluate.bootstrap_samples",
    (0, -1),
    "{last} is {value}",
    "must be at least 1",
)
refuse("evaluate.seed collect.seed", (-1, 10**24), "{last} is {value}", "from 0 to 9223372036854775807")
refuse("evaluate.prompt", (1.5, -1.0), "{last} is {value}", "a share of the optimum, from 0 to 1")
refuse("evaluate.temperature", (0.0, -1.0, 1e7), "{last} is {value}", "from 1e-06 to 1e+06, or null")
refuse("evaluate.split", (7, "null"), "{name} is", "must be of type str")
refuse(
    "collect.num_episodes collect.learners_per_task collect.lockstep",
    (0, -1),
    "{last} is {value}",
    "must be at least 1",
)
refuse("collect.num_episodes", (1.5, "NaN"), ODD, "must be of type int")
refuse("collect.expert_actions", (1,), ODD, "must be of type bool")
refuse("collect.settings", (7, "[]"), "{name} is", "must be of type dict")
refuse("collect.source", ('"dreams"', '""'), "unknown source '", "choose one of ['a2c'")
refuse("collect.source", (7,), ODD, "must be of type str")
refuse("family.fold", (5, -1), "{last} is {value}, but there are 5", "choose 0 to 4")
refuse("family.fold family.seed", (1.5, "true", '"x"'), "{last} is", "must be a whole number, at least 0")
refuse("family.seed", (-1, "null", 10**24), "{last} is", "must be a whole number, at least 0")
refuse("family.name", ('"attic"', 7), "unknown environment", "choose one of ['adversarial-bandit'")
refuse("family.walls", (3,), "'walls': 3", "unexpected keyword argument 'walls'")
refuse("objective", ('"dream"', '""'), "objective is '", "must be one of ad, ed, dpt")
refuse("name objective", (7,), ODD, "must be of type str")
refuse("dataset", (7,), ODD, "must be of type str")
refuse("train windows model evaluate collect", ("null", 7, "[]"), "{name} is", "must hold settings")
refuse("train.speed trian.updates", (7,), "no setting '{name}'", "of")
refuse("train.updates.x", (7,), "no setting '{name}'", "'updates' is not one of")


# Settings of sources: source -> setting -> values out of its range; what is said names the range.
SHARE, POSITIVE, STEPS = "a number from 0 to 1", "a number above 0 and at most 1", "a whole number from 1 to"
SOURCES: dict[str, dict[str, str]] = {
    "q-learning": dict.fromkeys(("learning_rate", "discount", "epsilon_start", "epsilon_end"), SHARE)
    | {"exploration": POSITIVE, "initial_value": "-1e+06 to 1e+06", "remember_rewards": "from 0 to 100"},
    "a2c": dict.fromkeys(("learning_rate", "discount", "gae_lambda", "value_learning_rate"), SHARE)
    | dict.fromkeys(("rollout_steps", "hidden_size"), STEPS)
    | dict.fromkeys(("entropy_coefficient", "max_grad_norm"), "from 0 to 1e+06"),
    "dqn": dict.fromkeys(("learning_rate", "discount", "q_lambda", "epsilon_start", "epsilon_end"), SHARE)
    | dict.fromkeys(("update_steps", "batch_size", "sequence_steps", "memory_steps", "hidden_size"), STEPS)
    | {"exploration": POSITIVE, "target_rate": SHARE, "max_grad_norm": "from 0 to 1e+06"},
    "noise": {"epsilon_start": SHARE, "epsilon_end": SHARE, "annealing": POSITIVE},
    "ucb": {"exploration": "from 0 to 1e+06"},
    "epsilon-greedy": {"epsilon_start": SHARE, "epsilon_end": SHARE},
}
OUT_OF_RANGE = [
    (source, setting, value, span)
    for source, settings in SOURCES.items()
    for setting, span in settings.items()
    for value in ("NaN", "-2e18", "1e18", '"x"')
]


def flags(command: list[str], *rows: tuple[str, str, str]) -> Iterator[tuple[list[str], str, str]]:
    """Rows of "--flag value" (or a bare argument), what is said of it, and the way out."""
    for words, said, way_out in rows:
        flag, _, value = words.partition(" ")
        yield [*command, *([flag, value] if flag.startswith("--") and _ else [words])], said, way_out


FOLDER = "so choose another"
NO_NAME = ("the name is empty", "name a folder, or a repository as org/name")
NO_PLACE = ("there is no folder {file}", "no repository on the Hub can have this name")
REPOSITORY = "is not a repository, which looks like org/name"
COMMANDS: list[tuple[list[str], str, str]] = [
    (["collect", "", "--output", "{output}"], "'' is neither an environment", "folder with a recipe.json"),
    (["collect", "dünkel", "--output", "{output}"], "'dünkel' is neither", "environment (adversarial-bandit"),
    (["collect", "{empty}", "--output", "{output}"], "{empty} holds no recipe.json", "ad-hf train"),
    (["collect", "{file}", "--output", "{output}"], "'{file}' is neither", "environment (adversarial-bandit"),
    (["collect", "dark-room", "--output", "{file}"], "{file}", FOLDER),
    (["collect", "dark-room", "--output", "{file}/deeper"], "{file}/deeper", FOLDER),
    (["collect", "dark-room", "--output", "/proc/histories"], "/proc/histories", "check the path"),
    (["collect", "dark-room", "--output", "{model}"], "{model} holds a model", "choose another --output"),
    *flags(
        COLLECT,
        ("--num-episodes -1", "num_episodes is -1", "must be at least 1"),
        (f"--num-episodes {HUGE}", f"num_episodes is {HUGE}", "lower one of them"),
        ("--learners-per-task -1", "learners_per_task is -1", "must be at least 1"),
        (f"--learners-per-task {HUGE}", f"learners_per_task is {HUGE}", "10000000 are possible: lower it"),
        ("--seed -1", "seed is -1", "must be from 0 to 9223372036854775807"),
        ("--fold -1", "fold is -1", "choose 0 to 4"),
        ("--source é", "unknown source 'é'", "choose one of"),
        ("--source ucb", "UCB needs a bandit", "with Discrete(1) observations"),
        ("--source thompson", "Thompson sampling needs a bandit", "with Discrete(1) observations"),
        ("--set nothing", "'nothing' is not of the form", "for example train.updates=2000"),
        ("--set =1", "there is no setting ''", "choose one of"),
        ("--set collect.settings.dicsount=1", "no setting 'dicsount'", "choose one of"),
        ("--push-to-hub nowhere", "'nowhere' " + REPOSITORY, "org/name@revision"),
        ("--push-to-hub a/b/c", "'a/b/c' " + REPOSITORY, "org/name@revision"),
    ),
    (
        [
            *COLLECT,
            "--set",
            "collect.source=posterior-sampling",
            "--set",
            'collect.settings={"resample": "x"}',
        ],
        "resample is 'x'",
        "must be 'episode' or 'refuted'",
    ),
    (
        ["collect", "uniform-bandit", "--output", "{output}", "--source", "posterior-sampling"],
        "AdversarialBanditVectorEnv",
        "needs an environment with consistent_hypotheses()",
    ),
    (
        ["collect", "watermaze", "--output", "{output}", "--source", "q-learning"],
        "got Box",
        "needs Discrete or MultiDiscrete observations",
    ),
    *flags(
        ["collect", "uniform-bandit", "--output", "{output}", "--set"],
        ("family.num_train=0", "num_train is 0", "at least 1 and at most 10000000"),
        (f"family.num_train={HUGE}", f"num_train is {HUGE}", "at least 1 and at most 10000000"),
        ("family.num_test=true", "num_test is True", "at least 1 and at most 10000000"),
    ),
    *flags(
        ["collect", "watermaze", "--output", "{output}", "--set"],
        ("family.start=west", "start is 'west'", "must be 'center', 'east' or 'rim'"),
        ("family.step_seconds=NaN", "step_seconds is [nan]", "above 0 and at most 1"),
        ("family.step_seconds=2", "step_seconds is 2", "above 0 and at most 1"),
        ("family.num_test=1.5", "num_test is 1.5", "at least 1 and at most 10000000"),
    ),
    *flags(
        ["collect", "dark-key-to-door", "--output", "{output}", "--set"],
        ("family.num_train=7000", "num_train is 7000", "must be 1 to 6305"),
        ("family.num_test=0", "num_test is 0", "must be 1 to 6560"),
    ),
    *(
        (["train", "dark-room", "--dataset", name, "--output", "{output}"], *said)
        for name, said in {
            "{file}": NO_PLACE,
            "{empty}": ("{empty}/dark-room holds no Parquet files", "collect histories with `ad-hf collect`"),
            "{model}": ("{model}/dark-room holds no Parquet files", "collect histories with `ad-hf collect`"),
            "{dataset}/dark-room": ("/dark-room/dark-room holds no Parquet files", "ad-hf collect"),
            "a/b/c": ("there is no folder ./a/b/c", "no repository on the Hub can have this name"),
            "é/ü": ("there is no folder ./é/ü", "no repository on the Hub can have this name"),
            "/proc": ("/proc/dark-room holds no Parquet files", "ad-hf collect"),
        }.items()
    ),
    (["train", "dark-room", "--dataset", "{dataset}", "--output", "{file}"], "{file}", FOLDER),
    (["train", "dark-room", "--dataset", "{dataset}", "--output", "{file}/m"], "{file}/m", FOLDER),
    (["train", "dark-room", "--dataset", "{dataset}", "--output", "/proc/m"], "/proc/m", "check the path"),
    (
        ["train", "dark-room", "--dataset", "{dataset}", "--output", "{dataset}"],
        "{dataset} is not empty",
        "--output",
    ),
    (
        ["train", "dark-room", "--dataset", "{dataset}", "--output", "{dataset}", "--resume"],
        "{dataset} holds something else than a training to resume",
        "choose another --output",
    ),
    *flags(
        TRAIN,
        ("--updates 0", "updates is 0", "must be at least 1"),
        ("--batch-size -3", "batch_size is -3", "must be at least 1"),
        ("--learning-rate nan", "learning_rate is nan", "must be a finite number"),
        ("--learning-rate -inf", "learning_rate is -inf", "must be a finite number"),
        ("--context-length -1", "context_length is -1", "must be at least 2"),
        ("--mixed-precision é", "mixed_precision is 'é'", "must be 'no' or 'bf16'"),
        ("--evaluate-every -1", "evaluate_every is -1", "must be at least 0"),
        ("--trackers ,", "the tracker '' is not", "pip install 'ad-hf[trackers]'"),
        ("--seed -1", "seed is -1", "must be at least 0"),
        ("--objective AD", "objective is 'AD'", "must be one of ad, ed, dpt"),
    ),
    ([*TRAIN, "--push-to-hub", "--hub-model-id", ""], "'' " + REPOSITORY, "org/name@revision"),
    *(
        (["evaluate", name, "--output", "{output}"], *said)
        for name, said in {
            "": NO_NAME,
            "{file}": NO_PLACE,
            "{empty}": ("{empty} holds no recipe.json", "ad-hf train"),
            "{dataset}": ("{dataset} holds no recipe.json", "ad-hf train"),
        }.items()
    ),
    *(
        (["generate", name], *said)
        for name, said in {
            "": NO_NAME,
            "{file}": NO_PLACE,
            "{dataset}": ("{dataset} holds no recipe.json", "ad-hf train"),
        }.items()
    ),
    *(
        (["report", name, "--output", "{output}"], *said)
        for name, said in {
            "": NO_NAME,
            "{file}": NO_PLACE,
            "{dataset}": ("{dataset} has not been evaluated", "run `ad-hf evaluate {dataset}` first"),
        }.items()
    ),
    *flags(
        EVALUATE,
        ("--num-episodes -1", "num_episodes is -1", "must be at least 1"),
        (f"--num-episodes {HUGE}", f"{HUGE} episodes", "ask for fewer"),
        (f"--rollouts-per-task {HUGE}", f"{HUGE} rollouts", "ask for fewer"),
        ("--seed -1", "seed is -1", "must be from 0 to"),
        ("--split train", "the split 'train' was trained on", "choose another, for example 'test'"),
        ("--split é", "no split 'é'", "choose one of ['train', 'test']"),
        ("--prompt nan", "prompt is nan", "must be a finite number"),
        ("--prompt -1", "prompt is -1.0", "from 0 to 1"),
    ),
    (["evaluate", "{model}", "--no-ed", "--output", "{file}"], "{file}", FOLDER),
    (["evaluate", "{model}", "--ed", "", "--output", "{output}"], *NO_NAME),
    (
        ["evaluate", "{model}", "--ed", "{dataset}", "--output", "{output}"],
        "{dataset} holds no recipe",
        "ad-hf train",
    ),
    (
        ["evaluate", "{model}", "--ed", "{model}", "--output", "{output}"],
        "the objective 'ad'",
        "leave out --ed",
    ),
    *flags(
        GENERATE,
        ("--goal 7", "goal is [7]", "must be (x, y) with both from 0 to 8"),
        ("--goal 1,2,3", "goal is [1, 2, 3]", "must be (x, y) with both from 0 to 8"),
        ("--goal -1,0", "goal is [-1, 0]", "must be (x, y) with both from 0 to 8"),
        (f"--goal {HUGE},0", f"goal is [{HUGE}, 0]", "must be (x, y) with both from 0 to 8"),
        ("--goal 1.5,2", "--goal is '1.5,2'", "must be X,Y, for example 7,2"),
        ("--goal é", "--goal is 'é'", "must be X,Y, for example 7,2"),
        ("--task []", "--task is '[]'", "must be a JSON object"),
        ("--task null", "--task is 'null'", "must be a JSON object"),
        (f"--task {'[' * 100_000}", "--task is '[[[", "must be a JSON object"),
        ('--task {"goal": [1]}', "goal is [1]", "must be (x, y) with both from 0 to 8"),
        ('--task {"goal": ["a", "b"]}', "goal is ['a', 'b']", "must be (x, y)"),
        ('--task {"goal": [NaN, 1]}', "goal is [nan, 1]", "must be (x, y)"),
        ('--task {"goal": {"x": 1}}', "goal is {'x': 1}", "must be (x, y)"),
        ('--task {"size": 0}', "size is 0", "at least 1 and at most 10000000"),
        (f'--task {{"size": {HUGE}}}', f"size is {HUGE}", "at least 1 and at most 10000000"),
        ('--task {"horizon": NaN}', "horizon is nan", "at least 1 and at most 10000000"),
        ('--task {"horizon": true}', "horizon is True", "at least 1 and at most 10000000"),
        ('--task {"start": "attic"}', "start is 'attic'", "must be 'center', 'random' or (x, y)"),
        ('--task {"terminate_on_goal": 2}', "terminate_on_goal is 2", "must be True or False"),
        ('--task {"é": 1}', "cannot be made with {'é': 1}", 'for example --task \'{"goal"'),
        ('--task {"num_envs": 3}', "cannot be made with {'num_envs': 3}", "for example --task"),
        (f"--num-episodes {HUGE}", f"num_episodes is {HUGE}", "must be at most 10000000"),
        ("--temperature inf", "temperature is inf", "must be from 1e-06 to 1000000"),
        ("--temperature 1e-300", "temperature is 1e-300", "must be from 1e-06 to 1000000"),
        ("--seed -1", "seed is -1", "must be from 0 to"),
        (f"--seed {10**24}", f"seed is {10**24}", "must be from 0 to"),
    ),
    *(
        (["push", "{model}", name], f"{name!r} " + REPOSITORY, "org/name@revision")
        for name in ("", "x", "../x/y")
    ),
    *(
        (["pull", name], f"{name!r} " + REPOSITORY, "org/name@revision")
        for name in ("", "a/b/c", "org/é", "@")
    ),
    (["push", "{file}", "org/model"], "there is no folder {file} to push", "folder"),
    (["push", "{model}", "org/model", "--revision", "a..b"], "'org/model@a..b' " + REPOSITORY, "@revision"),
    (["pull", "org/model", "--output", "{file}"], "{file} is not empty", "choose another --output"),
    (["pull", "org/model", "--output", "{dataset}"], "{dataset} is not empty", "choose another --output"),
    (["pull", "org/model", "--type", "MODEL"], "--type is 'MODEL'", "must be model or dataset"),
    *(
        (["list", name], f"{name!r} is no user or organisation", "org/name")
        for name in ("", "é", "a/b", "../x")
    ),
]

PARSER: list[tuple[list[str], str]] = [  # what the parser refuses by itself, naming the option
    ([*COLLECT, "--num-episodes", "1.5"], "--num-episodes"),
    ([*COLLECT, "--learners-per-task", "é"], "--learners-per-task"),
    ([*COLLECT, "--seed", "1e3"], "--seed"),
    ([*COLLECT, "--fold", ""], "--fold"),
    ([*COLLECT, "--num-proc", "0"], "--num-proc"),
    ([*TRAIN, "--updates", "NaN"], "--updates"),
    ([*TRAIN, "--learning-rate", "fast"], "--learning-rate"),
    ([*TRAIN, "--push-every", "-1"], "--push-every"),
    ([*EVALUATE, "--prompt", "half"], "--prompt"),
    ([*EVALUATE, "--num-episodes", ""], "--num-episodes"),
    ([*GENERATE, "--num-episodes", "-1"], "--num-episodes"),
    ([*GENERATE, "--temperature", "nan"], "--temperature"),
    ([*GENERATE, "--seed", "x"], "--seed"),
    ([*GENERATE, "--delay", "-1"], "--delay"),
    (["report", "{model}"], "--output"),
    (["env", "twice"], "twice"),
    (["list"], "ORG"),
    (["pull", "org/model", "--tpye", "model"], "--tpye"),
]


@pytest.fixture
def places(dataset_folder: Path, checkpoint: Path, tmp_path: Path) -> dict[str, Path]:
    """What the arguments speak of: {dataset} and {model} are whole, {output} is not there yet."""
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    return {
        "dataset": dataset_folder,
        "model": checkpoint,
        "output": tmp_path / "output",
        "file": tmp_path / "file",
        "empty": tmp_path / "empty",
    }


def filled(text: str, places: dict[str, Path]) -> str:
    return re.sub(r"\{(dataset|model|output|file|empty)\}", lambda found: str(places[found[1]]), text)


def refusal(arguments: list[str], places: dict[str, Path]) -> str:
    """The one line that is said; nothing was printed, made or changed."""
    kept = {name: contents(place) for name, place in places.items() if place.is_dir()}
    line = assert_one_line(invoke(*(filled(argument, places) for argument in arguments)))
    assert len(line) < 600
    assert {name: contents(place) for name, place in places.items() if place.is_dir()} == kept
    return line


@pytest.mark.parametrize("change", SETTINGS)
def test_a_setting_out_of_its_range_is_refused(change: str, places: dict[str, Path]) -> None:
    said, way_out = SETTINGS[change]
    command = COLLECT if change.startswith(("collect.", "family.")) else TRAIN
    line = refusal([*command, *sets((change,))], places)
    assert said in line
    assert way_out in line


@pytest.mark.parametrize(("source", "setting", "value", "span"), OUT_OF_RANGE)
def test_a_setting_of_a_source_out_of_its_range_is_refused(
    source: str, setting: str, value: str, span: str, places: dict[str, Path]
) -> None:
    changes = (f"collect.source={source}", f"collect.settings.{setting}={value}")
    line = refusal([*COLLECT, *sets(changes)], places)
    shown = repr(json.loads(value))
    assert f"{setting} of {source} is {shown}" in line
    assert span in line


@pytest.mark.parametrize(
    ("arguments", "said", "way_out"), [pytest.param(*row, id=" ".join(row[0])[:90]) for row in COMMANDS]
)
def test_a_wrong_argument_is_refused(
    arguments: list[str], said: str, way_out: str, places: dict[str, Path]
) -> None:
    line = refusal(arguments, places)
    assert filled(said, places) in line
    assert filled(way_out, places) in line


@pytest.mark.parametrize(("arguments", "named"), [pytest.param(*row, id=" ".join(row[0])) for row in PARSER])
def test_the_parser_names_what_it_refuses(arguments: list[str], named: str, places: dict[str, Path]) -> None:
    result = invoke(*(filled(argument, places) for argument in arguments), env={"TERMINAL_WIDTH": "200"})
    assert result.exit_code == 2
    assert result.stdout == ""
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    assert not places["output"].exists()
