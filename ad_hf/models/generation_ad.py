"""In-context reinforcement learning: frozen weights, a growing context, rising returns.

B = environments, W = the longest context in transitions, A = actions, E = episodes.

A context must be what the model was trained on: transitions, at positions counted from the first of them. A
key-value cache that merely drops its oldest entries is not, for what it keeps was computed with them in view.
Here the cache fills up to W transitions; then the last W / 2 are encoded afresh in one pass, and it fills up
again. So every prediction equals a plain forward pass over the context's transitions, at about one extra
token per step.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StaticCache, StoppingCriteriaList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .configuration_ad import ADGenerationConfig, space_to_json

PROMPT = ("observation", "action", "reward", "episode_start")  # what a prompt holds
MOST_EPISODES = 10_000_000  # of an environment; their returns are kept
COLDEST, HOTTEST = 1e-6, 1e6  # temperatures; beyond these logits overflow, or all actions are alike
MASKABLE = ("matmul", "sdpa")  # attention implementations that take a ready-made (L, S) mask


@dataclass
class ADContext:
    """What B agents remember. The caller holds it; `act` changes it in place and returns it.

    Args:
        tokens: the transitions as inputs of `ADModel.forward`: observation (B, W, ...), previous_action (B,
            W), previous_reward (B, W), episode_start (B, W).
        is_real: (B, W) bool, false where a row sat a column out; None while no row has.
        length: columns in use, 0 to W.
        encoded: the first so many of them are in the cache.
        action: (B,) the last actions; A before the first.
        cache: keys and values of the encoded columns; None for a decoder that takes no such cache (Mamba,
            GPT-Neo), for which every step is a full pass.
        causal: (W tokens, W tokens), what is added to the scores of the keys that a query may see, 0, and may
            not; None if the decoder makes its own mask.
        forward: the model's forward pass, as it is or compiled.
    """

    tokens: dict[str, torch.Tensor]
    is_real: torch.Tensor | None
    length: int
    encoded: int
    action: torch.Tensor
    cache: StaticCache | None
    causal: torch.Tensor | None
    forward: Callable[..., Any]

    @property
    def max_length(self) -> int:
        """W."""
        return self.tokens["episode_start"].shape[1]

    def transitions(self) -> dict[str, torch.Tensor]:
        """The transitions in the context as inputs of `ADModel.forward`, each (B, length, ...)."""
        return {name: values[:, : self.length] for name, values in self.tokens.items()}


@dataclass
class ADGenerateOutput(ModelOutput):
    """What `generate` returns; E is the episodes asked for, or those finished when a criterion stopped it.

    Args:
        episode_returns: (B, E) float64.
        episode_lengths: (B, E) in steps.
        num_steps: environment steps taken, summed over environments.
    """

    episode_returns: torch.Tensor | None = None
    episode_lengths: torch.Tensor | None = None
    num_steps: int | None = None


class ADGenerationMixin:
    """The in-context reinforcement-learning loop of `ADModel`."""

    config: Any
    decoder: Any
    device: Any
    dtype: Any
    forward: Any
    generation_config: Any

    def start(
        self,
        num_envs: int,
        prompt: dict[str, torch.Tensor] | None = None,
        context_length: int | None = None,
        compile: bool = False,
    ) -> ADContext:
        """A context for `num_envs` agents: empty, or holding a history to start from.

        Args:
            num_envs: B.
            prompt: observation (B or 1, L, ...), action (B or 1, L), reward (B or 1, L) and episode_start (B
                or 1, L), oldest first, ending where an episode ends. The last W / 2 transitions of it are
                kept.
            context_length: W, the configuration's or less.
            compile: act by `torch.compile`. It takes about half a minute the first time, then a single
                environment plays more than twice as fast.

        Raises:
            ValueError: if `context_length` is out of range, or the prompt has other rows, lengths, actions or
                observations than fit.
        """
        limit = self.config.context_length
        W = limit if context_length is None else context_length
        if not 2 <= W <= limit:
            raise ValueError(f"context_length is {W} transitions, but this model takes 2 to {limit}")
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, but must be at least 1")
        device, num_actions = self.device, self.config.num_actions
        space = self.config.observation_space
        seen = torch.zeros(
            num_envs, W, *self.config.observation_shape, dtype=getattr(torch, space.get("dtype", "long"))
        )
        num_tokens = W * self.config.tokens_per_transition
        causal = None
        if self._takes_mask():
            hidden = torch.finfo(self.dtype).min
            causal = torch.full((num_tokens, num_tokens), hidden, dtype=self.dtype, device=device).triu(1)
        context = ADContext(
            tokens={
                "observation": seen.to(device),
                "previous_action": torch.full((num_envs, W), num_actions, device=device),
                "previous_reward": torch.zeros(num_envs, W, device=device),
                "episode_start": torch.arange(W, device=device).repeat(num_envs, 1) == 0,
            },
            is_real=None,
            length=0,
            encoded=0,
            action=torch.full((num_envs,), num_actions, device=device),
            cache=StaticCache(config=self.config.decoder, max_cache_len=num_tokens)
            if self._takes_cache() and not self.config.unordered_context
            else None,
            causal=causal,
            # Shapes change with the number of environments only, so each gets a program of its own.
            forward=torch.compile(self.forward, dynamic=False) if compile else self.forward,
        )
        if prompt is not None:
            self._fill(context, prompt)
        return context

    @torch.no_grad()
    def act(
        self,
        context: ADContext,
        observation: torch.Tensor,
        reward: torch.Tensor | None = None,
        episode_start: torch.Tensor | None = None,
        active: torch.Tensor | None = None,
        do_sample: bool = True,
        logits_processor: LogitsProcessorList | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, ADContext]:
        """Choose an action on each observation, and remember the transition.

        Args:
            context: from `start` or the last `act`. It is changed in place.
            observation: (B, ...) what each agent sees; any array.
            reward: (B,) what its last action earned; leave it out on the first call, also after a prompt.
            episode_start: (B,) bool, whether the observation is an episode's first. Left out, it is so on the
                first call, also after a prompt, and never again.
            active: (B,) bool; rows that are false sit this call out: nothing is remembered, their action
                means nothing.
            do_sample: draw the action; otherwise the likeliest is taken.
            logits_processor: applied to the logits (B, A) as `processor(previous_actions, logits)`.
            generator: of the draws.

        Returns:
            The actions (B,) and the context.

        Raises:
            ValueError: if something has another shape or type than that, or is no observation or no number.
        """
        logits = self.next_action_logits(context, observation, reward, episode_start, active)
        if logits_processor:
            past_actions: Any = context.transitions()["previous_action"]
            logits = logits_processor(past_actions, logits)
        if do_sample:
            action = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
        else:
            action = logits.argmax(-1)
        if active is None:
            context.action = action
        else:
            active = torch.as_tensor(active, device=action.device)
            context.action = torch.where(active, action, context.action)
        return action, context

    @torch.no_grad()
    def next_action_logits(
        self,
        context: ADContext,
        observation: torch.Tensor,
        reward: torch.Tensor | None = None,
        episode_start: torch.Tensor | None = None,
        active: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What `act` samples from, (B, A); for a choice of your own, which goes into `context.action`."""
        tokens, device, B = context.tokens, context.action.device, len(context.action)
        observation = self._checked_observation(observation, (B,))
        if reward is not None:
            reward = _checked_reward(reward, (B,))
        if episode_start is not None:
            episode_start = _checked_flags("episode_start", episode_start, (B,))
        if active is not None:
            active = _checked_flags("active", active, (B,))
        if context.length == context.max_length:
            self._forget(context)
        column = context.length
        tokens["observation"][:, column] = observation.to(device)
        tokens["previous_action"][:, column] = context.action
        if reward is not None:
            tokens["previous_reward"][:, column] = reward.to(device)
        if episode_start is not None:
            tokens["episode_start"][:, column] = episode_start.to(device)
        if active is not None and not active.all() and context.is_real is None:
            if context.causal is None:
                raise ValueError(
                    f"rows cannot sit out with the decoder {self.config.decoder.model_type!r} and the "
                    f"attention {self.config._attn_implementation!r}: use another autoreset mode"
                )
            context.is_real = torch.ones_like(tokens["episode_start"])
        if context.is_real is not None:
            context.is_real[:, column] = True if active is None else active.to(device)
        context.length += 1
        self._hide_predecessor(context)
        return self._encode(context)

    @torch.no_grad()
    def generate(
        self,
        envs: Any,
        generation_config: ADGenerationConfig | None = None,
        prompt: dict[str, torch.Tensor] | None = None,
        logits_processor: LogitsProcessorList | list[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriteriaList | list | None = None,
        streamer: BaseStreamer | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> ADGenerateOutput:
        """Reinforcement-learn in context: play episodes in every environment with frozen weights.

        Args:
            envs: B environments in a Gymnasium vector environment of any autoreset mode.
            generation_config: how to play; None is the model's own.
            prompt: a history to start from, as for `start`.
            logits_processor: applied after the warpers that the configuration asks for.
            stopping_criteria: called as `criterion(previous_actions, None)` after each step of all
                environments; the run ends when every row is stopped.
            streamer: its `put` gets `{"env", "episode", "return", "length"}` as each episode ends, its `end`
                the end.
            seed: of the environments and the actions.
            kwargs: settings that override the configuration's, for example `num_episodes=40`.

        Raises:
            ValueError: if the spaces are not the model's, or a setting is unknown or out of range.
        """
        config = self._generation_settings(generation_config, kwargs)
        self._check_spaces(envs)
        processors = LogitsProcessorList([*warpers(config), *(logits_processor or [])])
        criteria = StoppingCriteriaList(stopping_criteria or [])
        generator = self._seeded(seed)
        autoreset = envs.metadata.get("autoreset_mode", "NextStep")
        autoreset = getattr(autoreset, "value", autoreset)  # Gymnasium's enumeration, or its value
        context = self.start(envs.num_envs, prompt, config.context_length, config.compile)

        B, E = envs.num_envs, config.num_episodes
        episode_returns = torch.zeros(B, E, dtype=torch.float64)
        episode_lengths = torch.zeros(B, E, dtype=torch.long)
        finished = torch.zeros(B, dtype=torch.long)  # episodes
        running_return, running_length = torch.zeros(B, dtype=torch.float64), torch.zeros(B, dtype=torch.long)
        observation, _ = envs.reset(seed=seed)
        reward: torch.Tensor | None = None  # a prompt brings the reward of its last action along
        # Rows (B,) at an episode's start, and those whose next step is only a reset; None if there are none.
        begins: torch.Tensor | None = torch.ones(B, dtype=torch.bool)
        resting: torch.Tensor | None = None
        num_steps = 0
        while True:
            if resting is None or not resting.all():
                active = None if resting is None else ~resting
                action, context = self.act(
                    context, observation, reward, begins, active, config.do_sample, processors, generator
                )
            observation, earned, terminated, truncated, _ = envs.step(action.cpu().numpy())
            earned = _checked_reward(torch.as_tensor(earned, dtype=torch.float64), (B,))
            ended = terminated | truncated
            done = torch.as_tensor(ended) if ended.any() else None
            if resting is None:
                reward = earned
                running_length += 1
                num_steps += B
            else:
                earned = earned.masked_fill(resting, 0.0)
                reward = earned if reward is None else torch.where(resting, reward, earned)
                running_length += ~resting
                num_steps += B - int(resting.sum())
                done = None if done is None else done & ~resting
            running_return += earned
            begins, resting = (resting, done) if autoreset == "NextStep" else (done, None)
            if done is not None:
                if autoreset == "Disabled":
                    observation, _ = envs.reset(options={"reset_mask": done.numpy()})
                for row in (done & (finished < E)).nonzero()[:, 0].tolist():
                    episode = int(finished[row])
                    episode_returns[row, episode] = running_return[row]
                    episode_lengths[row, episode] = running_length[row]
                    if streamer is not None:
                        streamer.put(
                            {
                                "env": row,
                                "episode": episode,
                                "return": float(running_return[row]),
                                "length": int(running_length[row]),
                            }
                        )
                finished += done
                running_return[done], running_length[done] = 0.0, 0
                if (finished >= E).all():
                    break
            if criteria:
                past_actions: Any = context.transitions()["previous_action"]
                if criteria(past_actions, None).all():
                    break
        if streamer is not None:
            streamer.end()
        E = min(E, int(finished.min()))
        return ADGenerateOutput(episode_returns[:, :E], episode_lengths[:, :E], num_steps)

    def _as_set(self, context: ADContext) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """The context as DPT takes it: the last observation in front, then all that has a predecessor.

        Returns:
            The tokens, each (B, length, ...), and which of them are real, (B, W); None where all are.
        """
        last = context.length - 1
        blank = {"previous_action": self.config.num_actions, "previous_reward": 0.0, "episode_start": False}
        tokens = {}
        for name, values in context.tokens.items():
            query = values[:, last : last + 1]
            query = torch.full_like(query, blank[name]) if name in blank else query
            tokens[name] = torch.cat([query, values[:, 1 : context.length]], dim=1)
        if context.is_real is None:
            return tokens, None
        is_real = context.is_real & (context.is_real.cumsum(dim=1) > 1)
        # In a row that has lived through nothing before, the query stands where the prediction is read.
        alone = context.is_real[:, last] & ~is_real[:, last]
        is_real[:, 0] = ~alone
        is_real[:, last] |= alone
        tokens["episode_start"][:, last] &= ~alone
        return tokens, is_real

    def _encode(self, context: ADContext) -> torch.Tensor:
        """Bring the columns that the cache lacks into it; the logits (B, A) of the last."""
        k = self.config.tokens_per_transition
        first, last = context.encoded * k, context.length * k
        position_ids = torch.arange(first, last, device=context.action.device)[None]
        mask, is_real = None, context.is_real
        new = {name: values[:, context.encoded : context.length] for name, values in context.tokens.items()}
        if self.config.unordered_context:
            new, is_real = self._as_set(context)
        if context.causal is not None:
            keys = None if context.cache is not None else last  # a static cache always has all
            mask = context.causal[None, None, first:last, :keys]
            if is_real is not None:
                is_real = is_real.repeat_interleave(k, dim=1)
                mask = mask.masked_fill(~is_real[:, None, None, :keys], torch.finfo(mask.dtype).min)
                position_ids = (is_real.cumsum(dim=1) - 1).clamp(min=0)[:, first:last]
        # The first pass allocates the cache, which a compiled one could not keep in place.
        begins = context.cache is not None and not context.cache.is_initialized
        output = (self.forward if begins else context.forward)(
            **new,
            cache=context.cache,
            attention_mask=mask,
            position_ids=position_ids,
            logits_to_keep=1,
        )
        if context.cache is not None:
            context.encoded = context.length
        return output.logits[:, -1]

    def _forget(self, context: ADContext) -> None:
        """Keep the last W / 2 columns only, to be encoded afresh."""
        kept = context.max_length // 2
        for values in [*context.tokens.values()] + ([] if context.is_real is None else [context.is_real]):
            values[:, :kept] = values[:, context.length - kept : context.length].clone()
            values[:, kept:] = 0
        if context.is_real is not None and context.is_real[:, :kept].all():
            context.is_real = None
        context.length, context.encoded = kept, 0
        if context.cache is not None:
            context.cache.reset()

    def _hide_predecessor(self, context: ADContext) -> None:
        """A context's first transition has no predecessor, whatever came before it was cut."""
        if context.encoded > 0 and context.is_real is None:
            return
        rows = torch.arange(len(context.action), device=context.action.device)
        first = 0 if context.is_real is None else context.is_real[:, : context.length].int().argmax(dim=1)
        context.tokens["previous_action"][rows, first] = self.config.num_actions
        context.tokens["previous_reward"][rows, first] = 0.0

    def _fill(self, context: ADContext, prompt: dict[str, torch.Tensor]) -> None:
        """Put the last W / 2 transitions of a history into an empty context."""
        missing = [name for name in PROMPT if name not in prompt]
        if missing:
            raise ValueError(f"the prompt lacks {', '.join(missing)}: give {', '.join(PROMPT)}")
        action = torch.as_tensor(prompt["action"])
        if action.ndim != 2 or action.dtype.is_floating_point or not action.numel():
            raise ValueError(
                f"the prompt's action is {tuple(action.shape)} {action.dtype}, but must be whole numbers, "
                "one for each transition of each row"
            )
        B, kept = len(context.action), min(context.max_length // 2, action.shape[1])
        if len(action) not in (1, B):
            raise ValueError(
                f"the prompt has {len(action)} rows, but there are {B} environments: give 1 or {B}"
            )
        shape, last = tuple(action.shape), self.config.num_actions - 1
        if action.min() < 0 or action.max() > last:
            raise ValueError(
                f"the prompt's action has values from {int(action.min())} to {int(action.max())}, but this "
                f"model acts by 0 to {last}"
            )
        observation = self._checked_observation(prompt["observation"], shape)
        reward = _checked_reward(prompt["reward"], shape)
        episode_start = _checked_flags("episode_start", prompt["episode_start"], shape)
        tokens = context.tokens
        tokens["observation"][:, :kept] = observation[:, -kept:]
        tokens["episode_start"][:, :kept] = episode_start[:, -kept:]
        tokens["previous_action"][:, 1 : kept + 1] = action[:, -kept:]
        tokens["previous_reward"][:, 1 : kept + 1] = reward[:, -kept:]
        tokens["episode_start"][:, kept] = True
        context.action[:] = action[:, -1]
        context.length = kept

    def _checked_observation(self, observation: Any, rows: tuple[int, ...]) -> torch.Tensor:
        """Observations (*rows, ...) as a tensor; refuses what is outside the model's observation space."""
        observation = torch.as_tensor(observation)
        space, wanted = self.config.observation_space, (*rows, *self.config.observation_shape)
        if tuple(observation.shape) != wanted:
            raise ValueError(
                f"observation has the shape {tuple(observation.shape)}, but must have {wanted}: one for a row"
            )
        is_float = observation.dtype.is_floating_point
        if space["type"] == "Box":
            if is_float and not observation.isfinite().all():
                raise ValueError("observation holds NaN or infinity, but must hold finite numbers")
            return observation
        low, high = observation.aminmax()
        sizes = space["nvec"] if "nvec" in space else [space["n"]]
        fits = low >= 0 and high < min(sizes)
        if not fits and low >= 0:  # where components differ in size
            fits = bool((observation < torch.tensor(sizes, device=observation.device)).all())
        if not fits or (is_float and (observation != observation.trunc()).any()):
            raise ValueError(
                f"observation has values from {low} to {high}, but this model sees whole numbers from 0 up "
                f"to, not including, {sizes}"
            )
        return observation

    def _takes_cache(self) -> bool:
        """Whether the decoder can be compiled, as transformers calls it: it is right with a StaticCache."""
        accepts = "cache" in inspect.signature(self.decoder.forward).parameters
        return accepts and self.decoder._can_compile_fullgraph

    def _takes_mask(self) -> bool:
        """Whether the decoder attends plainly, so that one mask serves all its layers."""
        decoder = self.config.decoder
        layer_types = set(getattr(decoder, "layer_types", None) or ["full_attention"])
        plain = layer_types == {"full_attention"} and getattr(decoder, "sliding_window", None) is None
        return plain and self.config._attn_implementation in MASKABLE

    def _check_spaces(self, envs: Any) -> None:
        for kind in ("observation", "action"):
            wanted = getattr(self.config, f"{kind}_space")
            found = space_to_json(getattr(envs, f"single_{kind}_space"))
            if found != wanted:
                raise ValueError(
                    f"the environment's {kind} space is {found}, but this model was made for {wanted}"
                )

    def _seeded(self, seed: int | None) -> torch.Generator | None:
        """A generator of this seed."""
        if seed is None:
            return None
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}, but must be from 0 to {2**63 - 1}")
        return torch.Generator(self.device).manual_seed(seed)

    def _generation_settings(
        self, config: ADGenerationConfig | None, changes: dict[str, Any]
    ) -> ADGenerationConfig:
        config = copy.deepcopy(self.generation_config if config is None else config)
        unknown = config.update(**changes)
        if unknown:
            raise ValueError(f"generate has no setting {', '.join(map(repr, unknown))}")
        if config.num_episodes < 1:
            raise ValueError(f"num_episodes is {config.num_episodes}, but must be at least 1")
        if config.num_episodes > MOST_EPISODES:
            raise ValueError(f"num_episodes is {config.num_episodes}, but must be at most {MOST_EPISODES}")
        if config.temperature is not None and not COLDEST <= config.temperature <= HOTTEST:
            raise ValueError(
                f"temperature is {config.temperature}, but must be from {COLDEST} to {HOTTEST:.0f}: "
                "do_sample=False takes the likeliest action"
            )
        return config

    def adjust_generation_fn(
        self,
        generation_config: ADGenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: Any,
        pretrained_model_name_or_path: str,
        trust_remote_code: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Called by `from_pretrained`: take generation_config.json where there is one."""
        if generation_config is not None:
            self.generation_config = generation_config
            return
        known = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        options = {name: kwargs[name] for name in known if name in kwargs}
        try:
            self.generation_config = ADGenerationConfig.from_pretrained(
                pretrained_model_name_or_path, **options
            )
        except OSError:
            self.generation_config = ADGenerationConfig()


def _checked_reward(reward: Any, rows: tuple[int, ...]) -> torch.Tensor:
    """Rewards of these rows as a tensor; refuses others, and what is no finite number."""
    reward = torch.as_tensor(reward)
    if tuple(reward.shape) != rows or not reward.isfinite().all():
        raise ValueError(f"reward is {reward.tolist()}, but must be {rows} finite numbers, one for each row")
    return reward


def _checked_flags(name: str, flags: Any, rows: tuple[int, ...]) -> torch.Tensor:
    """Truth values of these rows as a tensor; refuses others."""
    flags = torch.as_tensor(flags)
    if tuple(flags.shape) != rows or flags.dtype != torch.bool:
        raise ValueError(
            f"{name} is {tuple(flags.shape)} {flags.dtype}, but must be {rows} values, True or False"
        )
    return flags


def warpers(config: ADGenerationConfig) -> list[LogitsProcessor]:
    """The warpers that the configuration asks for, in transformers' order."""
    chosen: list[LogitsProcessor] = []
    if config.temperature is not None and config.temperature != 1.0:
        chosen.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        chosen.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1.0:
        chosen.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        chosen.append(MinPLogitsWarper(config.min_p))
    return chosen


__all__ = ["ADContext", "ADGenerateOutput", "ADGenerationMixin", "warpers"]
