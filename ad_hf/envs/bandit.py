"""Adversarial Bandit: ten arms, and training bandits that almost always pay under the odd ones.

An agent that has learned where rewards usually are fails once they are elsewhere; one that has learned to
explore does not. K = bandits in a vector environment, A = arms. The odd arms of the paper are the first, the
third, ...: actions 0, 2, 4, ...
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from ad_hf.envs.dark_room import AGENT, CELL, FLOOR, GOAL, LINES
from ad_hf.envs.lockstep import LockstepVectorEnv, SingleEnv, at_least_one
from ad_hf.tasks import Task, TaskFamily

NUM_ARMS = 10
FIRST = {"odd": 0, "even": 1}  # the first action of each parity: arms are counted from 1, actions from 0
AHEAD = 128  # uniform numbers drawn at once per bandit; one at a time costs thousands of calls a step
BAR = 4 * CELL  # pixels of the bar of an arm that always pays


def draw_means(formula: str, favoured: str, rng: np.random.Generator, num_arms: int = NUM_ARMS) -> np.ndarray:
    """The mean rewards (A,) of a bandit's arms.

    The paper says of its training bandits that reward is "more likely" under odd arms 95 % of the time, and
    gives no formula (Laskin et al. 2022, section 4.1). "G" agrees with its figure: an arm of the favoured
    parity is active with probability 0.95 and any other with 0.05; an active arm's mean is U[0, 1], that of
    the rest is 0. "H" is the reading of later work: in 95 % of the bandits favoured arms have U(0.5, 1) and
    the others U(0, 0.5), in the rest it is the reverse. In "uniform" every arm has U[0, 1].

    Args:
        formula: "G", "H" or "uniform".
        favoured: "odd" or "even"; "uniform" favours neither.
        rng: the only source of randomness here.
        num_arms: A.

    Raises:
        ValueError: if there is no such formula or parity.
    """
    if favoured not in FIRST:
        raise ValueError(f"favoured is {favoured!r}, but must be one of {', '.join(FIRST)}")
    is_favoured = np.arange(num_arms) % 2 == FIRST[favoured]  # (A,)
    match formula:
        case "G":
            is_active = rng.random(num_arms) < np.where(is_favoured, 0.95, 0.05)
            return is_active * rng.random(num_arms)
        case "H":
            is_upper = is_favoured if rng.random() < 0.95 else ~is_favoured
            return (is_upper + rng.random(num_arms)) / 2
        case "uniform":
            return rng.random(num_arms)
    raise ValueError(f"formula is {formula!r}, but must be one of G, H, uniform")


class AdversarialBanditVectorEnv(LockstepVectorEnv):
    """K bandits that are pulled in one line of NumPy.

    Args:
        num_envs: K.
        means: of the rewards, A from 0 to 1, or K times A of them. None draws ten by formula "G" with odd
            arms favoured, at the first reset and at every reset with a seed.
        horizon: pulls of an episode. An episode terminates at its horizon; it is not cut short by it.
        render_mode: None or "rgb_array" (a tuple of K frames).
        autoreset_mode: any of Gymnasium's three.

    Raises:
        ValueError: if `means` are not A or K times A numbers from 0 to 1, or a horizon is below 1.
    """

    terminates_at_horizon = True

    def __init__(
        self,
        num_envs: int = 1,
        means: Sequence[Any] | None = None,
        horizon: int = 1,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self._draws_means = means is None
        given = np.zeros(NUM_ARMS) if means is None else arm_means(means, at_least_one("num_envs", num_envs))
        A = given.shape[-1]
        super().__init__(num_envs, spaces.Discrete(1), A, horizon, render_mode, autoreset_mode)
        self.means = np.zeros((num_envs, A))
        self.means[:] = given
        self._ahead = np.zeros((num_envs, AHEAD))
        self._next = np.full(num_envs, AHEAD)  # which number of `_ahead` decides the next reward
        self._pulled = np.full(num_envs, -1)  # the last pull, for the eye; -1 before the first
        self._paid = np.zeros(num_envs, dtype=bool)

    def _draw_tasks(self, rows: np.ndarray) -> None:
        if self._draws_means:
            A = self.means.shape[1]
            self.means[rows] = [draw_means("G", "odd", self.generators[row], A) for row in rows]
        self._next[rows] = AHEAD  # what was drawn ahead came from the generator before
        self._pulled[rows] = -1

    def _begin(self, rows: np.ndarray) -> None:
        """Nothing to do: a bandit has no state."""

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        empty = self._next == AHEAD
        if empty.any():
            for row in np.flatnonzero(empty).tolist():
                self.generators[row].random(out=self._ahead[row])
            self._next[empty] = 0
        rows, live = np.arange(self.num_envs), ~self._done
        paid = self._ahead[rows, self._next] < self.means[rows, actions]
        self._next += live  # a row that only restarts uses no number up
        self._pulled, self._paid = np.where(live, actions, self._pulled), np.where(live, paid, self._paid)
        return paid.astype(np.float64), np.zeros(self.num_envs, dtype=bool)

    def _observe(self) -> np.ndarray:
        return np.zeros(self.num_envs, dtype=np.int64)

    def optimal_actions(self) -> np.ndarray:
        """The arms (K,) with the highest means; the first of equals."""
        return self.means.argmax(axis=1)

    def picture(self, row: int) -> np.ndarray:
        """A bar per arm, as high as its mean; below it the last pull is lit, in gold where it paid.

        (BAR + CELL, A * CELL, 3) uint8; the bars are for the viewer only.
        """
        means = self.means[row]
        frame = np.full((BAR + CELL, len(means) * CELL, 3), FLOOR, dtype=np.uint8)
        for arm, mean in enumerate(means):
            inside = slice(arm * CELL + 2, (arm + 1) * CELL - 2)
            frame[BAR - round(BAR * mean) : BAR, inside] = LINES
            if arm == self._pulled[row]:
                frame[BAR + 2 : -2, inside] = GOAL if self._paid[row] else AGENT
        return frame

    def text(self, row: int) -> str:
        """Actions, means, and below the last pull `+` where it paid and `-` where it did not."""
        pulled, mark = self._pulled[row], "+" if self._paid[row] else "-"
        columns = [
            [f"{arm:4}", f"{mean:4.2f}", f"{mark if arm == pulled else '':>4}"]
            for arm, mean in enumerate(self.means[row])
        ]
        return "\n".join(" ".join(line) for line in zip(*columns, strict=True))


class AdversarialBanditEnv(SingleEnv):
    """A bandit with ten arms, of which mostly the odd ones pay (Laskin et al. 2022, section 4.1).

    The agent sees nothing but its rewards, and has 100 pulls to find the arm that pays best.

    | | |
    |---|---|
    | Action space | `Discrete(10)`: the arm to pull; the odd arms are 0, 2, 4, 6 and 8 |
    | Observation space | `Discrete(1)`: always 0 |
    | Reward | 1 with the probability that is the arm's mean, else 0 |
    | Episode | one pull, then it terminates; with `horizon=100` the paper's 100 pulls |
    | Optimal return | 0.831 a pull on average over the bandits that formula "G" draws; a random one is 0.25 |

    An episode is one pull, so that a learning history of 100 episodes is the paper's 100 pulls and a learning
    curve has a point for each. The arguments are those of `AdversarialBanditVectorEnv`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        **SingleEnv.metadata,
        "action_symbols": string.digits + string.ascii_letters,
    }
    vector = AdversarialBanditVectorEnv


def adversarial_bandit_family(num_train: int = 4000, num_test: int = 200, seed: int = 0) -> TaskFamily:
    """Bandits that favour odd arms to train on and to test, and two tests outside: "even" and "uniform".

    Args:
        num_train: bandits to train on.
        num_test: bandits of each of the three tests.
        seed: of the draws; those of a split do not depend on the size of another.
    """
    return _bandit_family("adversarial-bandit", _with_outsiders("G"), num_train, num_test, seed)


def adversarial_bandit_h_family(num_train: int = 4000, num_test: int = 200, seed: int = 0) -> TaskFamily:
    """The same bandits by formula "H" of `draw_means`.

    Args:
        num_train: as in `adversarial_bandit_family`.
        num_test: as in `adversarial_bandit_family`.
        seed: as in `adversarial_bandit_family`.
    """
    return _bandit_family("adversarial-bandit-h", _with_outsiders("H"), num_train, num_test, seed)


def uniform_bandit_family(num_train: int = 4000, num_test: int = 200, seed: int = 0) -> TaskFamily:
    """Bandits without a favoured parity, to train on and to test.

    Args:
        num_train: as in `adversarial_bandit_family`.
        num_test: bandits to test.
        seed: as in `adversarial_bandit_family`.
    """
    draws = {"train": ("uniform", "odd"), "test": ("uniform", "odd")}
    return _bandit_family("uniform-bandit", draws, num_train, num_test, seed)


def _with_outsiders(formula: str) -> dict[str, tuple[str, str]]:
    odd = (formula, "odd")
    return {"train": odd, "test": odd, "even": (formula, "even"), "uniform": ("uniform", "odd")}


def _bandit_family(
    name: str, draws: Mapping[str, tuple[str, str]], num_train: int, num_test: int, seed: int
) -> TaskFamily:
    """Bandits drawn split by split; `draws` are the formula and the favoured parity of each."""
    at_least_one("num_train", num_train)
    at_least_one("num_test", num_test)
    splits = {}
    for number, (split, (formula, favoured)) in enumerate(draws.items()):
        rng = np.random.default_rng((seed, number))
        means = [
            draw_means(formula, favoured, rng).round(4).tolist()
            for _ in range(num_train if split == "train" else num_test)
        ]
        splits[split] = tuple(Task("ad_hf/AdversarialBandit-v0", {"means": arms}) for arms in means)
    return TaskFamily(name, splits, {"num_train": num_train, "num_test": num_test, "seed": seed})


def arm_means(means: Sequence[Any], num_envs: int) -> np.ndarray:
    """Mean rewards of one bandit's arms, (A,), or of K bandits', (K, A).

    Raises:
        ValueError: if they are something else, or not from 0 to 1.
    """
    wanted = f"one number from 0 to 1 per arm, or {num_envs} such lists of one length"
    try:
        found = np.asarray(means, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"means must be {wanted}: {error}") from error
    if found.shape[:-1] not in ((), (num_envs,)) or found.ndim == 0 or found.size == 0:
        raise ValueError(f"means are of shape {found.shape}, but must be {wanted}")
    outside = found[~((found >= 0) & (found <= 1))]
    if outside.size:
        raise ValueError(f"means hold {outside[0]}, but must be {wanted}")
    return found
