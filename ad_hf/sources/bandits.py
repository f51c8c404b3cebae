"""Bandit algorithms: UCB, Thompson sampling and epsilon-greedy, K learners in lockstep.

All three count pulls and rewards per arm and differ in how they choose from the counts. K = learners,
A = arms.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ad_hf.sources import Share, Weight, restart

# From pulls (K, A), rewards summed (K, A) and the share of the episodes that is over (K,): how good the arms
# look, (K, A). The best is pulled, and which of equals is a matter of chance.
Scores = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def ucb(envs: VectorEnv, num_episodes: int, seed: int, exploration: Weight = 0.03) -> None:
    """UCB1 (Auer, Cesa-Bianchi and Fischer 2002): the arm with the highest upper confidence bound.

    After every arm once, in random order, the bound is mean + sqrt(exploration * ln(t) / n) after t pulls, n
    of them of the arm.

    Args:
        envs: K bandits that reward from 0 to 1, autoreset `DISABLED`.
        num_episodes: episodes per learner; the counts go on across them.
        seed: of the environments and the ties.
        exploration: width of the bounds. UCB1's guarantee needs 2; over 100 pulls of an Adversarial Bandit
            2 earns 48 of 83.1 and 0.03 earns 73.

    Raises:
        ValueError: if an environment is no bandit, or rewards are below 0 or above 1.
    """

    def scores(pulls: np.ndarray, paid: np.ndarray, progress: np.ndarray) -> np.ndarray:
        n = np.maximum(pulls, 1)
        t = np.maximum(pulls.sum(axis=1, keepdims=True), 1)
        return np.where(pulls == 0, np.inf, paid / n + np.sqrt(exploration * np.log(t) / n))

    _learn(envs, num_episodes, seed, "UCB", np.random.default_rng(seed), scores)


def thompson(envs: VectorEnv, num_episodes: int, seed: int) -> None:
    """Thompson sampling (Thompson 1933; Agrawal and Goyal 2012): the best arm of a bandit drawn as believed.

    The belief is Beta(1 + paid, 1 + not paid) for every arm, which is exact for Bernoulli rewards and
    uniform means.

    Args:
        envs: K bandits that reward from 0 to 1, autoreset `DISABLED`.
        num_episodes: episodes per learner; the counts go on across them.
        seed: of the environments and the draws.

    Raises:
        ValueError: if an environment is no bandit, or rewards are below 0 or above 1.
    """
    rng = np.random.default_rng(seed)

    def scores(pulls: np.ndarray, paid: np.ndarray, progress: np.ndarray) -> np.ndarray:
        return rng.beta(1 + paid, 1 + pulls - paid)

    _learn(envs, num_episodes, seed, "Thompson sampling", rng, scores)


def epsilon_greedy(
    envs: VectorEnv, num_episodes: int, seed: int, epsilon_start: Share = 0.1, epsilon_end: Share = 0.0
) -> None:
    """Pull the arm that is best as believed, but a random one with a probability that moves linearly.

    The belief is that of `thompson`, and an arm is judged by its mean (1 + paid) / (2 + pulls). That of an
    arm never pulled is 1/2, so even without random pulls, the greedy policy under a Beta belief, the learner
    goes on to the next arm as long as arms disappoint it.

    Args:
        envs: K bandits that reward from 0 to 1, autoreset `DISABLED`.
        num_episodes: episodes per learner; the counts go on across them.
        seed: of the environments and the exploration.
        epsilon_start: probability of a random pull in the first episode.
        epsilon_end: the same in the last episode.

    Raises:
        ValueError: if an environment is no bandit, or rewards are below 0 or above 1.
    """
    rng = np.random.default_rng(seed)

    def scores(pulls: np.ndarray, paid: np.ndarray, progress: np.ndarray) -> np.ndarray:
        is_random = rng.random(len(pulls)) < epsilon_start + (epsilon_end - epsilon_start) * progress
        return np.where(is_random[:, None], 0, (1 + paid) / (2 + pulls))

    _learn(envs, num_episodes, seed, "epsilon-greedy", rng, scores)


def _learn(
    envs: VectorEnv, num_episodes: int, seed: int, name: str, rng: np.random.Generator, scores: Scores
) -> None:
    """Pull the arms that score best, and count what they pay."""
    observed, actions = envs.single_observation_space, envs.single_action_space
    sees_nothing = isinstance(observed, spaces.Discrete) and observed.n == 1
    if not sees_nothing or not isinstance(actions, spaces.Discrete):
        wanted = "Discrete(1) observations and Discrete actions"
        raise ValueError(f"{name} needs a bandit, with {wanted}, got {observed} and {actions}")
    K, A = envs.num_envs, int(actions.n)
    rows = np.arange(K)
    pulls, paid = np.zeros((K, A)), np.zeros((K, A))
    episodes = np.zeros(K, dtype=np.int64)
    observation = envs.reset(seed=seed)[0]
    while episodes.min() < num_episodes:
        progress = np.minimum(episodes / max(num_episodes - 1, 1), 1)
        looks = scores(pulls, paid, progress)
        is_best = looks == looks.max(axis=1, keepdims=True)
        action = (is_best * rng.random((K, A))).argmax(axis=1)
        observation, reward, terminated, truncated, _ = envs.step(action)
        if reward.min() < 0 or reward.max() > 1:
            raise ValueError(f"{name} needs rewards from 0 to 1, got {reward.min()} to {reward.max()}")
        pulls[rows, action] += 1
        paid[rows, action] += reward
        done = terminated | truncated
        episodes += done
        observation = restart(envs, observation, done)
