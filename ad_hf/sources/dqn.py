"""Deep Q-learning (DQN; Mnih et al. 2015) on the returns of Peng's Q(lambda), K learners in lockstep.

K = learners, M = steps that a memory holds, B = sequences of a batch, N = steps of a sequence, F = features
of an observation, H = hidden units, A = actions.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ad_hf.sources import Count, PositiveShare, Share, Weight, Within, restart
from ad_hf.sources.networks import apply_network, clip_gradients, features, make_network


def dqn(
    envs: VectorEnv,
    num_episodes: int,
    seed: int,
    learning_rate: Share = 1e-3,
    discount: Share = 0.9,
    q_lambda: Share = 0.75,
    epsilon_start: Share = 1.0,
    epsilon_end: Share = 0.01,
    exploration: PositiveShare = 0.5,
    update_steps: Count = 8,
    batch_size: Count = 8,
    sequence_steps: Count = 8,
    memory_steps: Annotated[int, Within(1, 10_000_000)] = 5_000,
    target_rate: Share = 0.05,
    hidden_size: Count = 64,
    max_grad_norm: Weight = 10.0,
) -> None:
    """Learn action values from a memory, with epsilon-greedy exploration that fades.

    Lambda, discount and the last epsilon are those of Laskin et al. 2022 (arXiv 2210.14215, appendix), who
    learn Watermaze with DQN(Q-lambda). Each learner has a memory of its own.

    Args:
        envs: K environments with Discrete actions and observations that `features` takes, autoreset
            `DISABLED`.
        num_episodes: episodes per learner.
        seed: of the environments, the weights, the exploration and the batches.
        learning_rate: of the network (Adam).
        discount: per environment step; a truncated episode is bootstrapped, a terminated one is not.
        q_lambda: of the returns: 0 bootstraps after one step, 1 at the end of the sequence or episode.
        epsilon_start: probability of a random action in the first episode.
        epsilon_end: the same once exploration has ended.
        exploration: the share of the episodes over which epsilon falls, linearly.
        update_steps: environment steps between two updates.
        batch_size: B, the sequences of an update, for each learner.
        sequence_steps: N, environment steps of a sequence; it may contain episode ends.
        memory_steps: M, the latest environment steps that a learner remembers.
        target_rate: the share by which the target network moves to the network at each update (Polyak).
        hidden_size: H, of the one hidden layer.
        max_grad_norm: each learner's gradient is clipped to this norm.

    Raises:
        ValueError: if the actions are not Discrete, or a sequence is longer than the memory.
    """
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise ValueError(f"DQN needs a Discrete action space, got {envs.single_action_space}")
    if sequence_steps > memory_steps:
        way_out = "lower sequence_steps or raise memory_steps"
        raise ValueError(f"sequence_steps is {sequence_steps}, but memory_steps is {memory_steps}: {way_out}")
    K, A = envs.num_envs, int(envs.single_action_space.n)
    rng = np.random.default_rng(seed)
    seen = features(envs, envs.reset(seed=seed)[0])  # (K, F)
    F = seen.shape[1]
    network = make_network(K, F, hidden_size, A, torch.Generator().manual_seed(seed))
    target = [weight.detach().clone() for weight in network]
    optimizer = torch.optim.Adam(network, lr=learning_rate, fused=True)
    # (K, M, ...): features before and after a step, its action and reward, `continues` and `same_episode` of
    # `lambda_returns`. Pages never written to take no memory.
    memory = [torch.empty(K, memory_steps, *shape) for shape in ((F,), (F,), (), (), (), ())]
    rows = torch.arange(K)[:, None, None]
    episode = np.zeros(K, dtype=np.int64)
    num_steps = 0
    while episode.min() < num_episodes:
        progress = np.minimum(episode / (exploration * num_episodes), 1)
        epsilon = epsilon_start + (epsilon_end - epsilon_start) * progress
        with torch.no_grad():
            greedy = apply_network(network, seen[:, None])[:, 0].argmax(1).numpy()  # (K,)
        action = np.where(rng.random(K) < epsilon, rng.integers(A, size=K), greedy)
        observation, reward, terminated, truncated, _ = envs.step(action)
        done = terminated | truncated
        arrived = features(envs, observation)
        happened = (seen, arrived, action, reward, ~terminated, ~done)
        for column, now in zip(memory, happened, strict=True):
            column[:, num_steps % memory_steps] = torch.as_tensor(now)
        num_steps += 1
        episode += done
        seen = features(envs, restart(envs, observation, done)) if done.any() else arrived
        if num_steps % update_steps or num_steps < sequence_steps:
            continue
        shape = (K, batch_size, sequence_steps)
        where = torch.from_numpy(draw_sequences(num_steps, memory_steps, shape, rng))
        inputs, next_inputs, actions, rewards, continues, same_episode = (
            column[rows, where] for column in memory
        )
        with torch.no_grad():
            next_values = apply_network(target, next_inputs.flatten(1, 2)).amax(-1).view(where.shape)
        returns = lambda_returns(rewards, next_values, continues, same_episode, discount, q_lambda)
        values = apply_network(network, inputs.flatten(1, 2)).view(*where.shape, A)
        chosen = values.gather(-1, actions[..., None].long())[..., 0]  # (K, B, N)
        # Summed over learners, averaged over a learner's steps: no step depends on how many others there are.
        loss = (chosen - returns).square().mean((1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(network, max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            for weight, latest in zip(target, network, strict=True):
                weight.lerp_(latest, target_rate)


def draw_sequences(
    num_steps: int, memory_steps: int, shape: tuple[int, int, int], rng: np.random.Generator
) -> np.ndarray:
    """Places (K, B, N) of sequences in a ring memory, uniform among those it still holds whole.

    Args:
        num_steps: all steps so far, at least N; step t was written to place t % M, and steps are consecutive.
        memory_steps: M, of which the latest steps are held.
        shape: K, B and N.
        rng: the only source of randomness here.
    """
    held = min(num_steps, memory_steps)
    first = num_steps - held + rng.integers(held - shape[-1] + 1, size=(*shape[:-1], 1))
    return (first + np.arange(shape[-1])) % memory_steps


def lambda_returns(
    rewards: torch.Tensor,
    next_values: torch.Tensor,
    continues: torch.Tensor,
    same_episode: torch.Tensor,
    discount: float,
    q_lambda: float,
) -> torch.Tensor:
    """Returns (..., N) of Peng's Q(lambda) (Peng and Williams 1996), for sequences of N steps.

    G_t = r_t + discount * ((1 - lambda) * max_a Q(s_t+1, a) + lambda * G_t+1). Unlike Watkins's Q(lambda),
    which cuts G where an action was not greedy, it is biased by what explored, and lets rewards travel far
    while almost everything explores.

    Args:
        rewards: (..., N), r.
        next_values: (..., N), the highest value of what each step led to.
        continues: (..., N), 0 where a step terminated the episode, so that nothing follows; else 1.
        same_episode: (..., N), 0 where the next step belongs to another episode; else 1.
        discount: per environment step.
        q_lambda: the share of G_t+1; 0 at the end of an episode or sequence.
    """
    returns = torch.empty_like(rewards)
    following = next_values[..., -1]
    for t in reversed(range(rewards.shape[-1])):
        following = next_values[..., t].lerp(following, q_lambda * same_episode[..., t])
        following = returns[..., t] = rewards[..., t] + discount * continues[..., t] * following
    return returns
