"""audiotok STAGE RECIPE [key=value ...]: run one stage of one recipe.

  audiotok --help           stages, recipes, examples
  audiotok STAGE --help     what the stage reads, writes and can be told

RECIPE is a name under recipes/, or the path of a .yaml file of your own. key=value changes a setting; GROUP=NAME chooses another
component (tokenizer=lyra). The folders configs/ and recipes/ where you are are found beside audiotok's own. What they name is run only if
it is audiotok's own code, or of a package, module or class that is trusted: --trust my_package, also of Python modules where you are.
--multirun runs every combination of settings with several values (train.learning_rate=1e-4,3e-4); hydra/launcher=submitit_slurm on Slurm.
--debug shows the traceback of an error.
"""

import difflib
import importlib
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, NoneType

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from audiotok import stages, storage
from audiotok.stages import paths, sweeps  # noqa: F401, the first makes ${fitted:} known
from audiotok.trust import refuse_untrusted

_HERE = Path(__file__).resolve().parent
ROOT = _HERE if (_HERE / "configs").is_dir() else _HERE.parent  # of configs/ and recipes/: in the wheel, or in a clone
ORDER = (
    "prepare", "fit", "tokenize", "reduce", "account", "align", "train", "distil", "groups", "synthesize", "recognise",
    "mix", "train_enhancer", "enhance", "separate", "decode", "evaluate", "bands", "compare", "report", "bench", "verify",
)  # fmt: skip
EACH = {"bench": "tokenizer", "account": "transform"}  # what a stage goes through several choices of
SHOWN = (ValueError, OSError, storage.Unreachable, FloatingPointError, HydraException, OmegaConfBaseException, YAMLError)  # on one line
EXAMPLES = """\
  audiotok prepare prompts/tts
  audiotok tokenize prompts/resynthesis tokenizer=dmel_80hz
  audiotok train prompts/tts train.steps=500 exp_dir=exp/quick
  audiotok synthesize prompts/tts synthesize.text="Good morning." synthesize.out=hello.wav"""


class UsageError(ValueError):
    """What the user typed does not exist; the message names the nearest thing that does."""


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # webrtcvad's, of the speaker metric
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # of norms, whose weights stay float32 under bf16
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"audiotok: {message}\n"
    try:
        _dispatch(argv)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SHOWN as error:
        if debug:
            raise
        raise SystemExit(f"audiotok: {_one_line(error)}") from None


def _dispatch(argv: Sequence[str]) -> None:
    argv, trust = trusted(argv)
    many, argv = "--multirun" in argv, [word for word in argv if word != "--multirun"]
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return
    name = _known(argv[0], stage_names(), "stage")
    if len(argv) > 1 and argv[1] in ("-h", "--help"):
        print(stage_help(name))
        return
    if len(argv) < 2:
        wanted = "a folder of outputs, such as exp" if name == "verify" else f"a recipe; there are: {', '.join(recipe_names())}"
        raise UsageError(f"audiotok {name} wants {wanted}")
    if any(word in ("-h", "--help") for word in argv[2:]):
        print(stage_help(name))
        return
    stage = importlib.import_module(f"audiotok.stages.{name}")
    if name == "verify":
        stage.check(storage.located(argv[1]), argv[2:])
    elif name == "report" and Path(argv[1]).is_dir():
        stage.draw(Path(argv[1]), argv[2:])
    elif many:
        _multirun(name, argv[1], argv[2:], trust=trust)
    elif name in EACH:
        _each(stage, argv[1], argv[2:], EACH[name], trust=trust)
    else:
        stage.run(load(argv[1], argv[2:], trust=trust))


def _multirun(name: str, recipe: str, overrides: Sequence[str], *, trust: Sequence[str]) -> None:
    """The stage with each combination of the settings' values, by Hydra's launchers."""
    _, found_by = _found_by(recipe)
    plain = [text for text in overrides if not text.startswith("hydra") and not sweeps.is_sweep(text)]
    exp_dir = load(recipe, plain, trust=trust).exp_dir
    job = partial(_job, name, recipe, list(trust))
    sweeps.multirun(job, configs=ROOT / "configs", found_by=found_by, overrides=list(overrides), exp_dir=exp_dir)


def _job(name: str, recipe: str, trust: list[str], overrides: list[str]) -> None:
    importlib.import_module(f"audiotok.stages.{name}").run(load(recipe, overrides, trust=trust))


def trusted(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the other words, what `--trust NAME`, as often as it stands there, names)."""
    words, names = list(argv), []
    while "--trust" in words:
        place = words.index("--trust")
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name := (words[place + 1 : place + 2] or [""])[0]):
            raise UsageError(f"--trust wants the name of a package, module or class, such as my_package; got {name!r}")
        names.append(name)
        del words[place : place + 2]
    return words, names


def _each(stage: ModuleType, recipe: str, overrides: Sequence[str], key: str, *, trust: Sequence[str]) -> None:
    """The recipe for each of the choices that `key=one,another` names; one that cannot be made does not stop the others."""
    named = [text for text in overrides if text.startswith(f"{key}=")]
    others = [text for text in overrides if text not in named]
    choices = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", named[-1].removeprefix(f"{key}=")) if named else []
    if len(choices) < 2:
        stage.run(load(recipe, overrides, trust=trust))
        return
    failed = []
    for choice in choices:
        try:
            stage.run(load(recipe, [*others, f"{key}={choice}"], trust=trust))
        except SHOWN as error:
            print(f"audiotok: {choice}: {_one_line(error)}", file=sys.stderr)
            failed.append(choice)
    if failed:
        raise ValueError(f"not done: {', '.join(failed)}; the reasons are above")


def stage_names() -> list[str]:
    """The stages, in the order in which a recipe runs them."""
    found = {module.name for module in pkgutil.iter_modules(stages.__path__)} - {"learning", "paths", "sweeps", "trained", "voices"}
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def roots() -> list[Path]:
    """Where configs/ and recipes/ are looked for: audiotok's own, then the folder where the user is."""
    here = Path.cwd()
    return [ROOT] if here == ROOT else [ROOT, here]


def recipe_names() -> list[str]:
    return sorted(
        {str(path.relative_to(root / "recipes").with_suffix("")) for root in roots() for path in (root / "recipes").rglob("*.yaml")}
    )


def overview() -> str:
    lines = [f"  {name:<12}{_doc(name).splitlines()[0]}" for name in stage_names()]
    recipes = "\n".join(f"  {name}" for name in recipe_names())
    return f"{(__doc__ or '').strip()}\n\nstages\n" + "\n".join(lines) + f"\n\nrecipes\n{recipes}\n\nexamples\n{EXAMPLES}"


def stage_help(name: str) -> str:
    """The stage's contract and the settings that it can be told, with their defaults."""
    sections = importlib.import_module(f"audiotok.stages.{name}").SECTIONS
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("config", overrides=["recipe=RECIPE"])
    common = ("seed", "device", "overwrite", "exp_root", "exp_dir")
    shown = OmegaConf.create({key: cfg[key] for key in (*sections, *common) if key in cfg})
    groups = [f"  {group}={'|'.join(group_options(group))}" for group in sections if group_options(group)]
    choices = "components to choose\n" + "\n".join(groups) + "\n\n" if groups else ""
    settings = "\n".join(f"  {line}" for line in OmegaConf.to_yaml(shown).splitlines())
    return f"audiotok {name} RECIPE [key=value ...]\n\n{_doc(name)}\n\n{choices}settings and their defaults\n{settings}"


def group_options(group: str) -> list[str]:
    return sorted({path.stem for root in roots() for path in (root / "configs" / group).glob("*.yaml")})


def load(recipe: str, overrides: Sequence[str], *, trust: Sequence[str] = ()) -> DictConfig:
    """The config of a recipe with overrides. `choices` in it holds the chosen name of each group.

    Raises ValueError where it names code that is neither audiotok's nor in `trust`, nor typed as tokenizer=my_package.MyTokenizer.
    """
    recipes, wanted = _found_by(recipe)
    typed = [text.removeprefix("tokenizer=") for text in overrides if text.startswith("tokenizer=")][-1:]
    overrides, own = foreign_tokenizer(overrides)
    overrides, chained = chain(overrides)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        _check_groups(overrides)
        chosen = [text for text in overrides if group_options(_group(text))]
        plain = compose("config", overrides=[*wanted, *chosen], return_hydra_config=True)
        overrides = [_quoted(text, plain) for text in overrides]
        _check(overrides, plain)
        cfg = plain if overrides == chosen else compose("config", overrides=[*wanted, *overrides], return_hydra_config=True)
    choices = {group: choice for group, choice in cfg.hydra.runtime.choices.items() if not group.startswith(("hydra", recipes))}
    with open_dict(cfg):
        del cfg["hydra"]
        cfg.choices = choices
        if own is not None:
            cfg.tokenizer, cfg.choices.tokenizer = own
        if chained:
            cfg.choices.transform = chained
    if own is not None and not typed[0].endswith((".yaml", ".yml")):
        trust = [*trust, own[0]._target_]
    refuse_untrusted(OmegaConf.to_container(cfg, resolve=False), trust)
    if trust:
        sys.path.append(str(Path.cwd()))  # last, so that a component of the user's own is found and shadows nothing
    return cfg


def _found_by(recipe: str) -> tuple[str, list[str]]:
    """(the config group that a recipe is of, the overrides that find and name it)."""
    folder, name, label = _locate(recipe)
    configs = [root / "configs" for root in roots()[1:] if (root / "configs").is_dir()]
    search = ",".join(f"'file://{path}'" for path in (folder.parent, *configs))
    return folder.name, [f"hydra.searchpath=[{search}]", f"+{folder.name}={name}", f"recipe={label}"]


def chain(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """(the overrides as Hydra understands transform=[merge2,bpe1024], the chain's name "merge2+bpe1024"; None where there is none)."""
    written = [re.fullmatch(r"transform=\[([^\]]*)\]", text) for text in overrides]
    if not any(written):
        return list(overrides), None
    names = [name.strip() for name in next(match for match in reversed(written) if match)[1].split(",") if name.strip()]
    for name in names:
        _known(name, group_options("transform"), "transform")
    others = [text for text, match in zip(overrides, written) if not match]
    steps = [f"+transform@transform.steps.step{index}={name}" for index, name in enumerate(names)]
    return ["transform=chain", *steps, *others], "+".join(names)


def foreign_tokenizer(overrides: Sequence[str]) -> tuple[list[str], tuple[DictConfig, str] | None]:
    """(the other overrides; the tokenizer that tokenizer=X describes where X is no choice of configs/, with its name).

    X is an importable class or function (my_package.MyTokenizer), a .yaml file with its `_target_` and arguments, or the name of an
    installed entry point in the group audiotok.tokenizers. tokenizer.key=value are arguments of its constructor.
    """
    named = [text.removeprefix("tokenizer=") for text in overrides if text.startswith("tokenizer=")]
    if not named or named[-1] in group_options("tokenizer"):
        return list(overrides), None
    entries = {entry.name: entry.value.replace(":", ".") for entry in entry_points(group="audiotok.tokenizers")}
    if named[-1].endswith((".yaml", ".yml")):
        if not Path(named[-1]).is_file():
            raise UsageError(f"no file {named[-1]}; there are tokenizers by name: {', '.join(group_options('tokenizer'))}")
        own, label = OmegaConf.load(named[-1]), Path(named[-1]).stem
    elif named[-1] in entries or re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", named[-1]):
        own, label = OmegaConf.create({"_target_": entries.get(named[-1], named[-1])}), named[-1].rpartition(".")[2]
    else:
        return list(overrides), None  # a misspelt name: the error names the nearest
    settings = [text for text in overrides if text.startswith("tokenizer.")]
    own = OmegaConf.merge(own, OmegaConf.from_dotlist([text.removeprefix("tokenizer.") for text in settings]))
    if not (isinstance(own, DictConfig) and "_target_" in own):
        raise UsageError(f"tokenizer={named[-1]}: a mapping with a _target_ is wanted")
    return [text for text in overrides if not text.startswith(("tokenizer=", "tokenizer."))], (own, label)


def _group(override: str) -> str:
    """The config group that an override would choose from, `transform` of "+transform@transform.steps.step0=merge2"."""
    return override.partition("=")[0].removeprefix("+").partition("@")[0]


def _locate(recipe: str) -> tuple[Path, str, str]:
    """(folder on the search path, name in it, label) of a recipe's name, or of a .yaml file."""
    if recipe.endswith((".yaml", ".yml")):
        path = Path(recipe).resolve()
        if not path.is_file():
            raise UsageError(f"no recipe file {recipe}; there are recipes by name: {', '.join(recipe_names())}")
        return path.parent, path.stem, path.stem
    name = _known(recipe, recipe_names(), "recipe")
    return next(root / "recipes" for root in roots() if (root / "recipes" / f"{name}.yaml").is_file()), name, recipe


def _check_groups(overrides: Iterable[str]) -> None:
    """Refuse what is not key=value, and a component that does not exist."""
    for text in overrides:
        key, equals, choice = text.partition("=")
        if not equals or text.startswith("-"):
            raise UsageError(f"got {text!r}; settings are given as key=value")
        if group_options(key) and choice not in group_options(key):
            raise UsageError(f"no {key} {choice!r}{_nearest(choice, group_options(key))}")


def _quoted(text: str, cfg: DictConfig) -> str:
    """An override whose value is plain text for a setting that holds text, so that a sentence or a path needs no second quotes."""
    key, _, value = text.partition("=")
    known = not group_options(key) and not key.startswith(("+", "~"))
    held = _held(cfg, key, unknown=0) if known else 0
    if not isinstance(held, (str, NoneType)) or (held is None and re.fullmatch(r"\[.*\]", value)):  # null may stand for a list
        return text
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.is_sweep_override() and not isinstance(override.value(), (dict, list)):
            return text
    except HydraException:
        pass
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)  # Hydra's rule for quoted text
    return f"{key}='{escaped}'"


def _check(overrides: Iterable[str], cfg: DictConfig) -> None:
    """Refuse an override that names no setting, or gives one a value of another type."""
    for text in overrides:
        override = OverridesParser.create().parse_override(text)
        if not (override.is_add() or override.is_delete() or override.is_sweep_override() or group_options(override.key_or_group)):
            _check_value(override.key_or_group, override.value(), cfg)


def _check_value(key: str, value: object, cfg: DictConfig) -> None:
    keys = list(_leaves(OmegaConf.to_container(cfg, resolve=False)))
    if key not in keys:
        raise UsageError(f"no setting {key!r}{_nearest(key, [known for known in keys if not known.startswith('hydra')])}")
    found = _held(cfg, key, unknown=None)
    if found is None or value is None or isinstance(found, str) or OmegaConf.is_config(found):
        return
    right = isinstance(value, bool) if isinstance(found, bool) else not isinstance(value, bool) and isinstance(value, (int, float))
    if isinstance(found, int) and not isinstance(found, bool):
        right = right and isinstance(value, int)
    right = right or (key.endswith(".workers") and value == "auto")
    if not right:
        raise UsageError(f"{key}={value}: wants {type(found).__name__}, such as {str(found).lower()}")


def _held(cfg: DictConfig, key: str, *, unknown: object) -> object:
    """What a setting holds before it is overridden, None where it is to be given; `unknown` where there is no such setting."""
    if OmegaConf.is_missing(cfg, key):
        return None
    try:
        return OmegaConf.select(cfg, key, default=unknown)
    except OmegaConfBaseException:
        return ""  # a path that a resolver makes of the whole config, which is not there yet


def _leaves(node: object, prefix: str = "") -> Iterable[str]:
    if prefix:
        yield prefix
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def _known(name: str, names: Sequence[str], kind: str) -> str:
    if name not in names:
        raise UsageError(f"no {kind} {name!r}{_nearest(name, names)}")
    return name


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(names)}"


def _one_line(error: BaseException) -> str:
    """The innermost reason of an error, on one line."""
    while isinstance(error, (InstantiationException, HydraException)) and error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _doc(name: str) -> str:
    return (importlib.import_module(f"audiotok.stages.{name}").__doc__ or "").strip()


if __name__ == "__main__":
    main()
