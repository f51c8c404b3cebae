"""The model. Its files travel to the Hub with every checkpoint, so they import only one another."""

from transformers import AutoConfig, AutoModel

from ad_hf.models.configuration_ad import ADConfig, ADGenerationConfig, space_to_json
from ad_hf.models.generation_ad import ADContext, ADGenerateOutput
from ad_hf.models.modeling_ad import ADModel, ADOutput

AutoConfig.register(ADConfig.model_type, ADConfig, exist_ok=True)
AutoModel.register(ADConfig, ADModel, exist_ok=True)

__all__ = [
    "ADConfig",
    "ADContext",
    "ADGenerateOutput",
    "ADGenerationConfig",
    "ADModel",
    "ADOutput",
    "space_to_json",
]
