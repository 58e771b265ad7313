"""Recipes: strict YAML to frozen settings, errors that name the nearest key, and a canonical hash."""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import core_schema

from biomistral.errors import UserError


class Settings(BaseModel):
    """What a stage makes (never how fast or where): frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


SettingsType = TypeVar("SettingsType", bound=Settings)


class Input(str):
    """A setting that names an input: a local path, ``embedded:NAME``, ``hub:ORG/NAME`` or, in a recipe, ``stage:NAME``.

    Where it lies does not enter an artifact's key: what it holds does.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))

    def __repr__(self) -> str:
        return str.__repr__(self)


class StageSettings(Settings):
    """Settings of one kind of stage; the class says which function makes it and the version of that function's code.

    ``version`` is raised whenever the same settings would give other bytes: what an older version made is then stale.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    make: ClassVar[str]
    """``module:function``, imported only when the stage runs, called with a `biomistral.artifact.Workspace`."""
    together: ClassVar[bool] = False
    """Whether all of torchrun's processes run that function at once; if not, the first does and the others wait."""

    seed: int = Field(0, description="root of all randomness of this stage")


class Requests(Settings):
    """How a server is asked. Never part of a key: answers do not depend on it, nor does a key for the server stand in it."""

    concurrency: int = Field(16, ge=1, description="requests in flight at once")
    requests_per_minute: float = Field(0, ge=0, description="most requests a minute; 0: no limit")
    tokens_per_minute: float = Field(0, ge=0, description="most tokens a minute, as estimated; 0: no limit")
    price_in: float | None = Field(None, ge=0, description="price of a million prompt tokens, in any currency")
    price_out: float | None = Field(None, ge=0, description="price of a million tokens of answers, in the same currency")
    max_cost: float | None = Field(None, ge=0, description="spend no more than this; needs --price-in and --price-out")
    timeout: float = Field(120, gt=0, description="seconds a request may take before it is sent again")
    tries: int = Field(8, ge=1, description="how often a request is sent at most; waits between double from a second to a minute")
    key_env: str = Field("BIOMISTRAL_API_KEY", description="environment variable that holds the server's key, if it needs one")

    @model_validator(mode="after")
    def _priced(self) -> "Requests":
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("max_cost needs price_in and price_out (--price-in, --price-out): nothing is counted without")
        return self


class SecondServer(Settings):
    """What is a second server's own, where a stage asks two; prices that are not given are the first's. Its key is never: a key
    goes to the server that it is for."""

    price_in: float | None = Field(None, ge=0, description="price of a million prompt tokens of the second server")
    price_out: float | None = Field(None, ge=0, description="price of a million tokens of its answers")
    key_env: str = Field("BIOMISTRAL_SECOND_API_KEY", description="environment variable that holds the second server's key")

    def of(self, first: Requests) -> Requests:
        """How the second server is asked."""
        return first.model_copy(update={name: value for name, value in self.model_dump().items() if value is not None})


class Machine(Settings):
    """How work is done on this machine. Never part of a key: results do not depend on it."""

    device: str = Field("auto", description="cpu, cuda, cuda:N or auto")
    workers: int = Field(0, ge=0, description="worker processes; 0 takes one per core")
    executor: Literal["local", "ray"] = Field(
        "local", description="what runs many batches: processes of this machine, or a Ray cluster (RAY_ADDRESS)")
    log_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        (), description="where a training's rows go besides metrics.jsonl")
    overwrite: bool = Field(False, description="replace another finished artifact that lies in --out")
    ignore_memory: bool = Field(False, description="train even where the plan needs more memory than there is")
    speed: bool = Field(False, description="measure a quantised model's memory and speed too, in processes of their own")
    cache: str = Field("", description="folder in which answers are kept and found again, by the hashes of weights and prompts")
    requests: Requests = Field(default_factory=Requests, description="how a server is asked")
    second: SecondServer = Field(default_factory=SecondServer, description="what is another server's own")


class Recipe(Settings):
    """A named list of stages, in order, with profiles that override some of their settings."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    seed: int = 0
    stages: dict[str, dict[str, Any]]
    profiles: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a name", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
        seen.add(key)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


class Document:
    """A parsed YAML file that remembers on which line each key stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file") from error
        except IsADirectoryError as error:
            raise UserError(f"{path}: is a folder, a YAML file was expected") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
        try:
            self.data: Any = yaml.load(text, Loader=_StrictLoader)
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise UserError(f"{path}{line}: {error.problem or 'not valid YAML'}") from error
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error

    def where(self, location: tuple[Any, ...]) -> str:
        """``file:line`` of a key path, or of the deepest part of it that exists."""
        node, line = self._root, 1
        for step in location:
            child = None
            if isinstance(node, yaml.MappingNode):
                for key_node, value_node in node.value:
                    if key_node.value == str(step):
                        child, line = value_node, key_node.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                child = node.value[step]
                line = child.start_mark.line + 1
            if child is None:
                break
            node = child
        return f"{self.path}:{line}"


def nearest(word: str, known: Any) -> str:
    """``; did you mean 'x'?`` when something close is known, else the list of what is."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(names))}" if names else ""


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names a mapping at this place may use, following nested settings as far as they can be followed."""
    for step in location:
        field = model.model_fields.get(str(step))
        if field is None:
            continue
        annotations = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
        if nested:
            model = nested[0]
    return list(model.model_fields)


def parse(model: type[SettingsType], data: Any, where: str = "settings", document: Document | None = None,
          prefix: tuple[Any, ...] = ()) -> SettingsType:
    """Validate ``data`` as ``model``; the first problem becomes one line that names place, value and nearest key."""
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        problems = error.errors()
        unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
        problem = (unknown or problems)[0]  # a misspelt key also makes another one missing: the misspelling is what helps
        location = problem["loc"]
        place = document.where((*prefix, *location)) if document else where
        key = ".".join(str(step) for step in (*prefix, *location))
        if problem["type"] == "extra_forbidden":
            hint = nearest(str(location[-1]), _fields_at(model, location[:-1]))
            raise UserError(f"{place}: unknown key '{key}'{hint}") from error
        if problem["type"] == "missing":
            raise UserError(f"{place}: '{key}' is missing") from error
        if problem["type"] == "value_error":
            raise UserError(f"{place}: {key + ': ' if key else ''}{problem['ctx']['error']}") from error
        raise UserError(f"{place}: {key} = {problem['input']!r}: {problem['msg'].lower()}") from error


def load_recipe(path: Path) -> tuple[Recipe, Document]:
    """Read a recipe file.

    Raises:
        UserError: the file is missing, not YAML, or does not describe a recipe.
    """
    document = Document(path)
    if not isinstance(document.data, dict):
        raise UserError(f"{path}: a recipe is a mapping with 'name' and 'stages'; this file holds "
                        f"{'nothing' if document.data is None else type(document.data).__name__}")
    return parse(Recipe, document.data, str(path), document), document


def plain(value: Any) -> Any:
    """Settings as plain JSON types, in a form that does not depend on how they were written."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    return str(value) if isinstance(value, str) else value


def canonical_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain data or settings: sorted keys, no white space, UTF-8."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
