"""Environments: each a file of its own, registered with Gymnasium under the namespace `ad_hf`."""

from typing import Any

from gymnasium.envs.registration import register, registry

# id -> "module:class" in this package, with "Env" or "VectorEnv" behind it, and arguments
ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ad_hf/AdversarialBandit-v0": ("bandit:AdversarialBandit", {}),
    "ad_hf/DarkKeyToDoor-v0": ("key_to_door:DarkKeyToDoor", {}),
    "ad_hf/DarkRoom-v0": ("dark_room:DarkRoom", {}),
    "ad_hf/DarkRoomHard-v0": ("dark_room:DarkRoom", {"size": 17, "reward_once": True}),
    "ad_hf/Watermaze-v0": ("watermaze:Watermaze", {}),
}


def register_environments() -> None:
    """Make `gymnasium.make("ad_hf/DarkRoom-v0")` and its siblings work; safe to call again."""
    for env_id, (place, kwargs) in ENVIRONMENTS.items():
        if env_id not in registry:
            place = f"ad_hf.envs.{place}"
            register(env_id, entry_point=f"{place}Env", vector_entry_point=f"{place}VectorEnv", kwargs=kwargs)


register_environments()
