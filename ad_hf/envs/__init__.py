"""Environments: each a file of its own, registered with Gymnasium under the namespace `ad_hf`."""

from typing import Any

from gymnasium.envs.registration import register, registry


def register_environments() -> None:
    """Make `gymnasium.make("ad_hf/DarkRoom-v0")` and its siblings work; safe to call again."""
    if "ad_hf/DarkRoom-v0" in registry:
        return
    dark_room: dict[str, Any] = {
        "entry_point": "ad_hf.envs.dark_room:DarkRoomEnv",
        "vector_entry_point": "ad_hf.envs.dark_room:DarkRoomVectorEnv",
    }
    register("ad_hf/DarkRoom-v0", **dark_room)
    register("ad_hf/DarkRoomHard-v0", **dark_room, kwargs={"size": 17, "reward_once": True})


register_environments()
