"""Classes by `model_type`: which configuration, model and processor a folder holds."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from mimsuite.encoders.config import ModelConfig
from mimsuite.errors import InputError, reading
from mimsuite.models.families import FAMILIES, PROCESSOR_NAMES
from mimsuite.weights.folder import read_our_config
from mimsuite.weights.formats.known import FORMATS
from mimsuite.weights.source import HubOptions, also_named, find_folder, take_files


class AutoConfig:
    """The configuration of a folder."""

    @staticmethod
    @also_named(pretrained_model_name_or_path="source")
    def from_pretrained(source: str | Path, **overrides: Any) -> Any:
        """Reads `config.json` of a folder or of `hf:ORG/NAME`, or a JSON file.

        `overrides` are as of `from_dict`, and keywords of the hub as for models.

        Raises:
            FileNotFoundError: no folder or no `config.json` (also an InputError).
            InputError: an unknown `model_type`.
        """
        content, overrides = ModelConfig.get_config_dict(source, **overrides)
        return AutoConfig.from_dict(content, **overrides)

    @staticmethod
    def from_dict(data: dict[str, Any], **overrides: Any) -> Any:
        """Makes the configuration from the content of a `config.json`; overrides and errors as of the family's."""
        with reading("config.json", "restore the file"):
            return _class_of(data.get("model_type"), "config").from_dict(data, **overrides)

    @staticmethod
    def for_model(model_type: str, **values: Any) -> ModelConfig:
        """Makes the configuration of a family."""
        config: ModelConfig = _class_of(model_type, "config")(**values)
        return config


class _AutoModel:
    part: str

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, *, config: ModelConfig | str | Path | None = None, **options: Any
    ) -> Any:
        """Reads the model of a folder or of `hf:ORG/NAME`; options as for `Pretrained.from_pretrained`."""
        source = options.pop("pretrained_model_name_or_path", source)
        given = AutoConfig.from_pretrained(config) if isinstance(config, str | Path) else _own_config(config)
        if source is None and given is not None:
            return _class_of(given.model_type, cls.part).from_pretrained(None, config=given, **options)
        if source is None:
            raise InputError("give a folder to from_pretrained")
        hub = HubOptions.take(options)
        folder = find_folder(source, hub, files=take_files(dict(options)))
        named = read_our_config(folder).get("model_type") if given is None else given.model_type
        read = _class_of(named, cls.part).from_pretrained(folder, config=given, **options)
        model = read[0] if isinstance(read, tuple) else read
        model.name_or_path = model.config.name_or_path = str(source)
        return read

    @classmethod
    def from_config(cls, config: ModelConfig, **options: Any) -> Any:
        """Makes a freshly initialised model; options as for the class's constructor, `dtype`, `attn_implementation`."""
        HubOptions.take(options)
        config = _own_config(config)
        return _class_of(config.model_type, cls.part)._from_config(config, **options)


class AutoModel(_AutoModel):
    """The bare encoder of a folder."""

    part = "model"


class AutoModelForMaskedImageModeling(_AutoModel):
    """Encoder and pixel head, of any family, and of any encoder whose config names the class itself."""

    part = "masked image modeling"

    @classmethod
    def from_config(cls, config: ModelConfig, **options: Any) -> Any:
        """Makes a freshly initialised model; options as for the class's constructor.

        Raises:
            InputError: an encoder from outside has the `model_type` of a family, as which its files would be read.
        """
        config = _own_config(config)
        own = config.masked_model_class()
        if own is None:
            return super().from_config(config, **options)
        if config.model_type in FAMILIES:
            raise InputError(
                f"{type(config).__name__} has model_type={config.model_type!r}, which is a family of mimsuite; "
                "give it a model_type of its own"
            )
        HubOptions.take(options)
        return own._from_config(config, **options)


class AutoModelForImageClassification(_AutoModel):
    """Encoder and classifier, of any family."""

    part = "image classification"


class AutoBackbone(_AutoModel):
    """Encoder that gives the maps of chosen stages."""

    part = "backbone"


class AutoImageProcessor:
    """The image processor of a folder."""

    @staticmethod
    @also_named(pretrained_model_name_or_path="source")
    def from_pretrained(
        source: str | Path, use_fast: bool | None = None, *, backend: str | None = None, **overrides: Any
    ) -> Any:
        """Reads `preprocessor_config.json`.

        Args:
            source: a folder, `hf:ORG/NAME`, or a file like it.
            use_fast: the torch or the Pillow form; None: torch if the file names it.
            backend: "torchvision" is the torch form, "pil" the Pillow form; wins over `use_fast`.
            overrides: what `ImageProcessor.from_pretrained` takes, and `config`, for files that name no processor.

        Raises:
            FileNotFoundError: no folder or no file (also an InputError).
            InputError: an unknown processor or backend.
        """
        from mimsuite.processors.base import ImageProcessor

        if backend not in (None, "pil", "torchvision"):
            raise InputError(f"backend={backend!r} is not one of 'torchvision' (the form in torch), 'pil', None")
        config = overrides.pop("config", None)
        hub = {name: value for name, value in overrides.items() if name in HubOptions.__dataclass_fields__}
        data, overrides = ImageProcessor.get_image_processor_dict(source, **overrides)
        named = data.get("image_processor_type", data.get("feature_extractor_type"))
        if named is None:
            config = config or AutoConfig.from_pretrained(source, **hub)
            named = FAMILIES[config.model_type].processor
        plain = str(named).removesuffix("Fast").removesuffix("Pil")
        if plain not in PROCESSOR_NAMES:
            raise InputError(f"{source}: image processor {named!r} is not one of {', '.join(sorted(PROCESSOR_NAMES))}")
        name, models = PROCESSOR_NAMES[plain], import_module("mimsuite.models")
        if backend is not None or use_fast is not None:
            fast = bool(use_fast) if backend is None else backend == "torchvision"
        else:
            fast = str(named).endswith("Fast")
        if fast and f"{name}Fast" not in models.__all__:
            warnings.warn(f"{name} has no form in torch; this is the Pillow form", stacklevel=2)
            fast = False
        with reading(f"{source}: preprocessor_config.json", "restore the file"):
            return getattr(models, f"{name}Fast" if fast else name).from_dict(data, **overrides)


def _own_config(config: Any) -> Any:
    """The config itself or None, or ours for one of transformers', such as its `CONFIG_MAPPING["vit"]()` makes."""
    if config is None or hasattr(config, "masked_model_class"):
        return config
    return AutoConfig.from_dict(config.to_dict())


def _class_of(model_type: Any, part: str) -> Any:
    """The class of a family for one of `families.PARTS`."""
    known = {key: name for key, family in FAMILIES.items() if (name := family.class_name(part)) is not None}
    if model_type not in known:
        *others, last = sorted(known.keys() - {"external"})
        names = f"{', '.join(others)} and {last}" if others else last
        if read_as_ours := sorted(t for form in FORMATS if form.model_type in known for t in form.model_types):
            names = f"{names} ({', '.join(read_as_ours)} as vit)"
        if model_type in FAMILIES:
            raise InputError(f"model_type={model_type} has no class for {part}; use a checkpoint of {names}")
        found = f"this is a {model_type} checkpoint" if model_type else "its config.json names no model_type"
        raise InputError(
            f"{found}; mimsuite opens {names}, and wraps another encoder by model=external model.source=FOLDER; "
            "a model of your own is read by the from_pretrained of its own class"
        )
    return getattr(import_module("mimsuite.models"), known[model_type])
