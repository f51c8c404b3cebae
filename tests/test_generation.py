"""In-context reinforcement learning: exact contexts, and a loop that plays what it says it plays.

B = environments, L = transitions, W = the longest context in transitions, A = actions, E = episodes.
"""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from test_models import DECODERS, PLAIN, assert_close, lively_model, random_observations
from transformers import AutoModel, LogitsProcessor, MaxTimeCriteria, StoppingCriteria
from transformers.generation.logits_process import SuppressTokensLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from ad_hf.evaluation import history_prompt
from ad_hf.histories import Histories, Recorder
from ad_hf.models import ADContext, ADGenerationConfig, ADModel
from ad_hf.tasks import Task

NUM_ACTIONS = 5
ROOM = {"type": "MultiDiscrete", "nvec": [3, 3]}
GOALS = [[1, 1], [0, 1], [1, 2], [2, 1]]  # the centre, where episodes of even length start, and around it
ATTENTIONS = [(decoder, None) for decoder in DECODERS] + [
    (decoder, attention) for decoder in (*PLAIN, "mistral") for attention in ("sdpa", "eager")
]


class Life:
    """What happened to B agents, row by row, kept beside the context to compare it with.

    Whatever is handed over for a row that sits out is noise, which must not be seen again.
    """

    def __init__(self, model: ADModel, num_envs: int, seed: int = 0) -> None:
        self.model, self.generator = model, torch.Generator().manual_seed(seed)
        self.rows: list[list[tuple]] = [[] for _ in range(num_envs)]

    def live(self, context: ADContext, active: torch.Tensor | None = None) -> torch.Tensor:
        """One step of random experience: its logits (B, A)."""
        B, generator = len(self.rows), self.generator
        observation = random_observations(self.model, B, generator=generator)
        reward, begins = torch.rand(B, generator=generator), torch.rand(B, generator=generator) < 0.2
        action = torch.randint(NUM_ACTIONS, (B,), generator=generator)
        logits = self.model.next_action_logits(context, observation, reward, begins, active)
        for row, past in enumerate(self.rows):
            if active is None or active[row]:
                past.append((observation[row], action[row], reward[row], begins[row]))
                context.action[row] = action[row]
        return logits

    def inputs(self, row: int, length: int) -> dict[str, torch.Tensor]:
        """The last `length` transitions of a row as inputs of `ADModel.forward`, as a window shows them."""
        observation, action, reward, begins = (
            torch.stack(column) for column in zip(*self.rows[row][-length:], strict=True)
        )
        none, zero = torch.full((1,), NUM_ACTIONS), torch.zeros(1)
        return {
            "observation": observation[None],
            "previous_action": torch.cat([none, action[:-1]])[None],
            "previous_reward": torch.cat([zero, reward[1:]])[None],
            "episode_start": begins[None],
        }

    def full_pass(self, row: int, length: int) -> torch.Tensor:
        """The logits (A,) of a plain forward pass over them."""
        with torch.no_grad():
            return self.model(**self.inputs(row, length)).logits[0, -1]


# Contexts


def assert_every_step_is_exact(model: ADModel, steps: int, context_length: int | None = None) -> None:
    life, context = Life(model, num_envs=2), model.start(2, context_length=context_length)
    W = context.max_length
    lengths = []
    for step in range(steps):
        logits = life.live(context)
        lengths.append(context.length)
        for row in range(2):
            inputs = life.inputs(row, context.length)
            assert all(torch.equal(values[row], inputs[n][0]) for n, values in context.transitions().items())
            assert_close(logits[row], life.full_pass(row, context.length))
        assert step < W // 2 or context.length > W // 2
    assert lengths.count(W) >= 3, "not three windows: the test has lost its point"


@pytest.mark.parametrize(("decoder", "attention"), ATTENTIONS)
def test_cached_steps_equal_full_passes(decoder, attention):
    # An odd context, so that its halves are unequal.
    assert_every_step_is_exact(lively_model(decoder, context_length=9, attn_implementation=attention), 30)


@pytest.mark.parametrize("decoder", ["gpt_neox", "llama", "gpt2", "mistral"])
def test_cached_steps_of_three_tokens_equal_full_passes(decoder):
    assert_every_step_is_exact(lively_model(decoder, context_length=8, tokens_per_transition=3), 26)


@pytest.mark.parametrize("context_length", [2, 3, 11])
def test_a_shorter_context_is_exact_too(context_length):
    assert_every_step_is_exact(lively_model(context_length=12), 34, context_length)


@pytest.mark.parametrize("attention", ["matmul", "sdpa"])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("decoder", PLAIN)
def test_a_row_that_sits_out_remembers_what_it_lived_and_nothing_else(decoder, tokens, attention):
    model = lively_model(
        decoder, context_length=9, tokens_per_transition=tokens, attn_implementation=attention
    )
    life, context = Life(model, num_envs=4), model.start(4)
    chance = torch.Generator().manual_seed(1)
    busy = torch.tensor([1.0, 0.9, 0.5, 0.2])  # the last row sits out most of the time, the first never
    for step in range(40):
        active = torch.rand(4, generator=chance) < busy
        active[3] &= step > 12  # and has lived nothing when the first context is cut
        everyone = step % 10 > 7  # and sometimes nobody does
        active |= everyone
        logits = life.live(context, None if everyone else active)
        real = torch.ones(4, context.length) if context.is_real is None else context.is_real
        lengths = real[:, : context.length].sum(dim=1).int().tolist()
        for row in active.nonzero()[:, 0].tolist():
            assert 0 < lengths[row] <= 9
            assert_close(logits[row], life.full_pass(row, lengths[row]))


@pytest.mark.parametrize(
    ("decoder", "attention"), [("mistral", "matmul"), ("mamba", None), ("llama", "eager")]
)
def test_rows_cannot_sit_out_where_the_decoder_makes_its_own_mask(decoder, attention):
    model = lively_model(decoder, attn_implementation=attention)
    context = model.start(2)
    with pytest.raises(ValueError, match=f"cannot sit out with the decoder '{decoder}'.*another autoreset"):
        model.act(context, np.zeros((2, 2)), active=torch.tensor([True, False]))


@pytest.mark.parametrize(("W", "tokens"), [(10, 1), (9, 1), (8, 3)])
def test_a_step_costs_the_same_for_ever(W, tokens):
    model = lively_model(context_length=W, tokens_per_transition=tokens)
    encoded: list[int] = []
    model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    life, context = Life(model, num_envs=2), model.start(2)
    life.live(context)
    assert context.cache is not None
    before = [(layer.keys.data_ptr(), layer.keys.shape) for layer in context.cache.layers]
    for _ in range(20 * W - 1):
        life.live(context)
    assert [(layer.keys.data_ptr(), layer.keys.shape) for layer in context.cache.layers] == before
    period = W - W // 2  # steps from one cut to the next
    assert encoded[W:-period] == encoded[W + period :]
    assert encoded[:W] == [tokens] * W
    assert sum(encoded) <= tokens * (2 * len(encoded))


def test_contexts_on_one_model_do_not_know_of_each_other():
    model = lively_model(context_length=6)
    alone = [Life(model, 2, seed) for seed in (1, 2)]
    contexts = [model.start(2) for _ in alone]
    wanted = [[life.live(context) for _ in range(20)] for life, context in zip(alone, contexts, strict=True)]
    mixed = [Life(model, 2, seed) for seed in (1, 2)]
    contexts = [model.start(2) for _ in mixed]
    for step in range(20):
        for life, context, logits in zip(mixed, contexts, wanted, strict=True):
            assert torch.equal(life.live(context), logits[step])


def test_what_act_is_not_told_is_an_ordinary_step():
    model = lively_model(context_length=4)
    told, untold = model.start(1), model.start(1)
    for step in range(12):
        observation = np.array([[step % 9, 3]])
        logits = model.next_action_logits(told, observation, np.zeros(1), np.array([step == 0]))
        assert torch.equal(model.next_action_logits(untold, observation), logits)
        told.action[:] = untold.action[:] = step % NUM_ACTIONS
        told, untold = (context if step % 5 else rewarded(model, context) for context in (told, untold))


def rewarded(model: ADModel, context: ADContext) -> ADContext:
    """The context after a step that left a reward and an episode's start behind."""
    return model.act(context, np.ones((1, 2)), np.ones(1), np.ones(1, dtype=bool), do_sample=False)[1]


def test_a_model_in_bfloat16_acts():
    model = lively_model(context_length=6).bfloat16()
    context = model.start(3)
    for _ in range(20):
        action, context = model.act(context, np.full((3, 2), 4), np.ones(3))
        assert action.shape == (3,)


# Episodes


def rooms(
    mode: AutoresetMode = AutoresetMode.DISABLED, ragged: bool = False, record: bool = False
) -> VectorEnv:
    """Four rooms of 3x3, with episodes of 5 steps, or of 1 to 7."""
    settings = {"horizon": 7, "terminate_on_goal": True, "start": "random"} if ragged else {"horizon": 5}
    envs = gym.make_vec("ad_hf/DarkRoom-v0", num_envs=4, size=3, goal=GOALS, autoreset_mode=mode, **settings)
    return Recorder(envs) if record else envs


def recorded(envs: VectorEnv, num_episodes: int | None = None) -> Histories:
    assert isinstance(envs, Recorder)
    return envs.histories([Task("ad_hf/DarkRoom-v0", {"goal": goal}) for goal in GOALS], num_episodes)


def room_model(**settings: Any) -> ADModel:
    """Of a seed whose episodes differ most; a model that never learnt mostly walks into a wall."""
    return lively_model("llama", observation_space=ROOM, **({"context_length": 12, "seed": 8} | settings))


def played_by_hand(
    model: ADModel, num_episodes: int, seed: int, prompt: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Returns (B, E) of the loop that the documentation of `start` and `act` asks for."""
    envs, returns = rooms(), torch.zeros(4, num_episodes, dtype=torch.float64)
    context, generator = model.start(4, prompt), torch.Generator().manual_seed(seed)
    observation, _ = envs.reset(seed=seed)
    reward = None
    for episode in range(num_episodes):
        for step in range(5):
            begins = np.full(4, step == 0)
            action, context = model.act(context, observation, reward, begins, generator=generator)
            observation, reward, _, _, _ = envs.step(action.numpy())
            returns[:, episode] += torch.as_tensor(reward)
        observation, _ = envs.reset(options={"reset_mask": np.ones(4, dtype=bool)})
    return returns


def test_generate_equals_a_loop_written_by_hand():
    model = room_model()
    output = model.generate(rooms(), num_episodes=8, seed=3)
    assert torch.equal(output.episode_returns, played_by_hand(model, 8, seed=3))
    assert len(set(output.episode_returns.flatten().tolist())) > 2, "the rooms have lost their point"
    assert output.episode_returns.dtype == torch.float64
    assert output.episode_lengths.tolist() == [[5] * 8] * 4
    assert output.num_steps == 4 * 8 * 5


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("decoder", ["gpt_neox", "mistral", "mamba"])
def test_every_autoreset_mode_gives_the_same_episodes(decoder, mode):
    model = lively_model(decoder, observation_space=ROOM, context_length=12)
    wanted = model.generate(rooms(), num_episodes=6, seed=3)
    output = model.generate(rooms(mode), num_episodes=6, seed=3)
    assert torch.equal(output.episode_returns, wanted.episode_returns)
    assert output.num_steps == wanted.num_steps


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_ragged_episodes_do_not_depend_on_the_autoreset_mode(mode):
    # Greedily, for rows that wait draw too, and before a context is cut, for a wait brings the cut forward.
    model = room_model(context_length=60, seed=7)
    outputs = [
        model.generate(rooms(each, ragged=True), num_episodes=5, seed=1, do_sample=False)
        for each in (AutoresetMode.DISABLED, mode)
    ]
    assert torch.equal(outputs[0].episode_lengths, outputs[1].episode_lengths)
    assert torch.equal(outputs[0].episode_returns, outputs[1].episode_returns)
    assert len(set(outputs[0].episode_lengths.flatten().tolist())) > 3, (
        "not ragged: the test has lost its point"
    )


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_what_is_returned_is_what_happened(mode, ragged):
    envs = rooms(mode, ragged, record=True)
    output = room_model().generate(envs, num_episodes=9, seed=2)
    histories = recorded(envs, 9)
    np.testing.assert_array_equal(output.episode_returns, histories.return_matrix())
    np.testing.assert_array_equal(output.episode_lengths.flatten(), np.diff(histories.episode_offsets))
    if not ragged:
        assert output.num_steps == len(histories.action)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_context_holds_what_happened(mode, monkeypatch):
    model, contexts = room_model(context_length=80), []
    start = model.start
    monkeypatch.setattr(model, "start", lambda *args: contexts.append(start(*args)) or contexts[-1])
    envs = rooms(mode, ragged=True, record=True)
    model.generate(envs, num_episodes=5, seed=4)
    context, histories = contexts[0], recorded(envs)
    for row in range(4):
        prompt = history_prompt(histories, row, transitions=1000)  # the row's whole episodes
        length = prompt["action"].shape[1]
        real = slice(None) if context.is_real is None else context.is_real[row, : context.length]
        seen = {name: values[row][real][:length] for name, values in context.transitions().items()}
        assert len(seen["observation"]) == length
        assert torch.equal(seen["observation"], prompt["observation"][0].long())
        assert torch.equal(seen["episode_start"], prompt["episode_start"][0])
        assert seen["previous_action"].tolist() == [NUM_ACTIONS, *prompt["action"][0, :-1].tolist()]
        assert seen["previous_reward"].tolist() == [0.0, *prompt["reward"][0, :-1].tolist()]


def test_a_seed_repeats_a_run_and_another_does_not():
    model = room_model()
    first, again, other = (
        model.generate(rooms(), num_episodes=8, seed=seed).episode_returns for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_actions_are_drawn_unless_told_otherwise():
    model = room_model()

    def play(seed: int, **settings: Any) -> list:
        return model.generate(rooms(), num_episodes=8, seed=seed, **settings).episode_returns.tolist()

    greedy = play(0, do_sample=False)
    assert greedy == play(1, do_sample=False)
    assert play(0) != play(1)
    for sharp in ({"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-4}, {"min_p": 1.0}):
        assert play(1, **sharp) == greedy, sharp
    assert play(0, temperature=1e4) != play(0)


def test_settings_can_be_given_as_a_configuration():
    model = room_model()
    config = ADGenerationConfig(num_episodes=4, do_sample=False, context_length=6)
    output = model.generate(rooms(), config, seed=0)
    wanted = model.generate(rooms(), num_episodes=4, do_sample=False, context_length=6, seed=0)
    assert torch.equal(output.episode_returns, wanted.episode_returns)
    assert model.generate(rooms(), config, num_episodes=2).episode_returns.shape == (4, 2)
    assert config.num_episodes == 4


class Watch(LogitsProcessor):
    """Keeps what a processor is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, past_actions: Any, scores: Any) -> Any:
        self.calls.append((past_actions.clone(), scores.clone()))
        return scores


def test_logits_processors_see_the_past_and_can_forbid_an_action():
    envs, watch = rooms(record=True), Watch()
    forbid = SuppressTokensLogitsProcessor([0, 4], device="cpu")
    room_model(context_length=20).generate(envs, num_episodes=3, logits_processor=[forbid, watch], seed=0)
    actions = recorded(envs).action.reshape(4, 15)
    assert set(actions.flatten().tolist()) == {1, 2, 3}
    assert len(watch.calls) == 15
    for step, (past_actions, scores) in enumerate(watch.calls):
        assert past_actions[:, 0].tolist() == [NUM_ACTIONS] * 4
        np.testing.assert_array_equal(past_actions[:, 1:], actions[:, :step])
        assert scores.shape == (4, NUM_ACTIONS)
        assert (scores[:, [0, 4]] == -torch.inf).all()


class StopAfter(StoppingCriteria):
    """Stops row i after `steps[i]` steps."""

    def __init__(self, steps: list[int]) -> None:
        self.steps, self.calls = torch.tensor(steps), 0

    def __call__(self, past_actions: Any, scores: Any, **kwargs: Any) -> Any:
        self.calls += 1
        assert past_actions.shape == (4, self.calls)
        return self.steps <= self.calls


class Listen(BaseStreamer):
    """Keeps what a streamer is told."""

    def __init__(self) -> None:
        self.episodes: list[dict[str, Any]] = []
        self.ended = 0

    def put(self, value: dict[str, Any]) -> None:
        assert not self.ended
        self.episodes.append(value)

    def end(self) -> None:
        self.ended += 1


def test_a_run_stops_when_every_row_is_to_stop_and_returns_whole_episodes():
    model, listen, criterion = room_model(context_length=20), Listen(), StopAfter([3, 13, 5, 0])
    wanted = model.generate(rooms(), num_episodes=8, seed=3)
    output = model.generate(rooms(), num_episodes=8, seed=3, stopping_criteria=[criterion], streamer=listen)
    assert torch.equal(output.episode_returns, wanted.episode_returns[:, :2])
    assert output.episode_lengths.tolist() == [[5, 5]] * 4
    assert output.num_steps == 4 * 13
    assert (len(listen.episodes), listen.ended) == (8, 1)


def test_a_run_stops_when_its_time_is_over():
    output = room_model().generate(rooms(), num_episodes=10**6, stopping_criteria=[MaxTimeCriteria(0.1)])
    assert output.episode_returns.shape == output.episode_lengths.shape
    assert output.episode_returns.shape[1] < 10**4
    nothing = room_model().generate(rooms(), stopping_criteria=[MaxTimeCriteria(-1.0)])
    assert nothing.episode_returns.shape == (4, 0)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_streamer_hears_of_every_episode_once(mode):
    listen = Listen()
    output = room_model().generate(rooms(mode, ragged=True), num_episodes=6, seed=0, streamer=listen)
    assert listen.ended == 1
    assert len(listen.episodes) == 4 * 6
    heard = {(told["env"], told["episode"]): (told["return"], told["length"]) for told in listen.episodes}
    assert heard == {
        (row, episode): (output.episode_returns[row, episode], output.episode_lengths[row, episode])
        for row in range(4)
        for episode in range(6)
    }


def test_generate_leaves_the_model_as_it_was():
    model = room_model().train()
    weights, attributes = {n: v.clone() for n, v in model.state_dict().items()}, set(vars(model))
    settings = model.generation_config.to_dict()
    model.generate(rooms(), num_episodes=3, temperature=0.5)
    assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())
    assert set(vars(model)) == attributes
    assert model.generation_config.to_dict() == settings
    assert model.training
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


# Prompts


@pytest.fixture(scope="module")
def histories() -> Histories:
    """Four rows of 8 ragged episodes of a random policy."""
    envs = rooms(ragged=True, record=True)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(100):
        _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
        if (terminated | truncated).any():
            envs.reset(options={"reset_mask": terminated | truncated})
    return recorded(envs, 8)


@pytest.mark.parametrize("transitions", [1, 4, 6, 7, 30])
@pytest.mark.parametrize("W", [12, 13])
def test_a_prompt_is_the_same_as_having_played_it(histories, transitions, W):
    model = room_model(context_length=W)
    prompt = history_prompt(histories, 1, transitions)
    assert prompt["action"].shape == (1, transitions)
    prompted, played = model.start(2, prompt), model.start(2)
    lived = {name: torch.cat([values, values]) for name, values in prompt.items()}
    reward = torch.zeros(2)
    for step in range(transitions - min(W // 2, transitions), transitions):
        model.next_action_logits(
            played, lived["observation"][:, step], reward, lived["episode_start"][:, step]
        )
        played.action[:], reward = lived["action"][:, step], lived["reward"][:, step]
    for step in range(3 * W):
        observation = torch.tensor([[step % 3, 1], [1, step % 2]])
        if step == 0:  # told or not, the last reward is the prompt's and an episode begins
            told = model.start(2, prompt)
            logits = model.next_action_logits(told, observation, reward, torch.ones(2, dtype=torch.bool))
            assert torch.equal(model.next_action_logits(prompted, observation), logits)
            model.next_action_logits(played, observation, reward, torch.ones(2, dtype=torch.bool))
        else:
            logits = model.next_action_logits(prompted, observation, reward)
            assert_close(model.next_action_logits(played, observation, reward), logits)
        for name, values in played.transitions().items():
            assert torch.equal(prompted.transitions()[name], values), name
        prompted.action[:] = played.action[:] = step % NUM_ACTIONS
        reward = torch.tensor([step % 4, 0.5])


def test_generate_starts_from_a_prompt(histories):
    model, prompt = room_model(), history_prompt(histories, 0, 30)
    output = model.generate(rooms(), num_episodes=4, seed=1, prompt=prompt)
    assert torch.equal(output.episode_returns, played_by_hand(model, 4, seed=1, prompt=prompt))
    unprompted = model.generate(rooms(), num_episodes=4, seed=1)
    assert not torch.equal(output.episode_returns, unprompted.episode_returns)


def test_every_environment_can_have_a_prompt_of_its_own(histories):
    model = room_model()
    prompts = [history_prompt(histories, row, 6) for row in range(4)]
    together = {name: torch.cat([prompt[name] for prompt in prompts]) for name in prompts[0]}
    logits = model.next_action_logits(model.start(4, together), np.ones((4, 2)))
    for row in range(4):
        alone = model.next_action_logits(model.start(1, prompts[row]), np.ones((1, 2)))
        assert_close(logits[row], alone[0])


# Refusals


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_episodes": 0}, "num_episodes is 0, but must be at least 1"),
        ({"num_episode": 3}, "generate has no setting 'num_episode'"),
        ({"context_length": 13}, "context_length is 13 transitions, but this model takes 2 to 12"),
        ({"context_length": 1}, "context_length is 1 transitions, but this model takes 2 to 12"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_wrong_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        room_model().generate(rooms(), **settings)


def test_environments_the_model_was_not_made_for_are_refused():
    with pytest.raises(ValueError, match=r"observation space is .*\[3, 3\].* made for .*\[9, 9\]"):
        lively_model().generate(rooms())
    fewer_actions = room_model(action_space={"type": "Discrete", "n": 4})
    with pytest.raises(ValueError, match=r"action space is .*5.* made for .*4"):
        fewer_actions.generate(rooms())
    with pytest.raises(ValueError, match=r"observation space is .*Box.*\[4\].* made for .*\[3, 3\]"):
        room_model().generate(gym.make_vec("CartPole-v1", num_envs=2))


def test_a_prompt_for_another_number_of_environments_is_refused(histories):
    prompt = {
        name: values.repeat_interleave(3, 0) for name, values in history_prompt(histories, 0, 6).items()
    }
    with pytest.raises(ValueError, match="the prompt has 3 rows, but there are 4 environments: give 1 or 4"):
        room_model().generate(rooms(), prompt=prompt)


def test_a_context_for_nobody_is_refused():
    with pytest.raises(ValueError, match="num_envs is 0, but must be at least 1"):
        room_model().start(0)


# generation_config.json


def test_how_to_play_is_saved_with_the_model(tmp_path):
    model = room_model()
    model.generation_config = ADGenerationConfig(num_episodes=7, temperature=0.5, context_length=6)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["num_episodes"] == 7
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again.generation_config) is ADGenerationConfig
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    assert again.generate(rooms(), seed=0).episode_returns.shape == (4, 7)


def test_a_checkpoint_without_generation_config_plays_by_the_defaults(tmp_path):
    room_model().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = AutoModel.from_pretrained(tmp_path).generation_config
    assert type(config) is ADGenerationConfig
    assert (config.num_episodes, config.do_sample, config.context_length) == (100, True, None)
