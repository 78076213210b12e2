"""What a training run is asked to be: its configuration and the named recipes.

Nothing here imports torch or NumPy, so the command line reads recipes and defaults at its start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gia_cli.cameras import KINDS, CameraFamily, CfaKind
from gia_cli.data.crops import CropOptions
from gia_cli.errors import UsageError
from gia_cli.nets.config import NETWORKS, NetConfig, WhiteBalanceMode
from gia_cli.runtime import DeviceName, Precision

LossName = Literal["l1", "l2", "joint", "multiscale", "zamir"]
RecipeName = Literal["small", "finetune", "gpu", "paper", "paper-as-printed"]
#: Recipes whose steps `gia bench` times.
TimedRecipe = Literal["small", "gpu"]
#: What simulates exposures; auto: torch for the recipe "gpu" on CUDA, else NumPy.
SimulationName = Literal["auto", "numpy", "torch"]

#: Key, of a run's configuration and of the weights' training, of whether the vector does.
VECTOR_SUPERVISED = "vector_supervised"
#: Share of the loss against a teacher's picture, where none is given.
TEACHER_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; the named ones are in `RECIPES`."""

    crops: CropOptions
    loss: LossName
    lr: float
    """Peak learning rate of Adam."""
    last_lr: float
    """Learning rate at the end (cosine), or in the second half (halves)."""
    schedule: Literal["cosine", "halves"]
    epochs: int | None = None
    """Passes over the scenes, one photo each, of all processes together; None: the number of steps
    must be given."""
    warmup: int = 0
    """Steps over which the learning rate rises from zero."""
    adam_eps: float = 1e-8
    clip: float | None = None
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of the running mean of the weights; 0: the weights themselves are what counts."""
    init: Literal["default", "kaiming"] = "default"
    deep_supervision_weight: float = 0.0
    """Weight of the training-only loss on the deep levels; see `DeepSupervisionHeads`."""
    skip_dropout_share: float = 0.0
    """Share of steps in which shallow skips are dropped, so that the deep levels must answer; see
    `draw_skip_dropout`."""
    skip_dropout_until: float = 0.0
    """Share of the run over which that share falls from one to `skip_dropout_share`."""
    auxiliary_weight: float = 0.0
    """Weight of the training-only loss on the vector's auxiliary targets; see `auxiliary_loss`."""
    checkerboard_weight: float = 0.0
    """Weight of the training-only loss against patterns of sub-pixels; see `checkerboard_loss`."""
    teacher_forcing_until: float = 0.0
    """Share of the run over which teacher forcing falls from all steps to none; see
    `is_teacher_forced`."""
    fused: bool = False
    """Whether the loss sees the picture fused with the measurement; see `fused_picture`."""
    raw_weight: float = 0.0
    """Weight of the training-only loss on the planes without noise; see `raw_loss`."""
    teacher_weight: float = 0.0
    """Share of the loss that is taken against the teacher's picture, not the truth; 0: there is no
    teacher."""


# For a few cores: small crops, several of one photo, so that their common vector knows more than
# each crop sees itself.
_SMALL_RECIPE = Recipe(
    crops=CropOptions(
        photos=1, crops=4, sides=(48, 96), multiple=16, late_sides=(96, 160), late_from=0.75
    ),
    loss="l1",
    lr=2e-4,
    last_lr=4e-6,
    schedule="cosine",
    warmup=300,
    adam_eps=1e-12,
    clip=1.0,
    ema=0.999,
    init="kaiming",
    deep_supervision_weight=0.2,
    skip_dropout_share=0.1,
    skip_dropout_until=0.2,
)

RECIPES: dict[RecipeName, Recipe] = {
    # Meng et al. 2020, section 4: the joint loss, crops of 32 * b with b in 16...32 drawn for every
    # iteration, 2000 epochs and 2000 more at a tenth of the rate. The printed rate of 0.1 diverges
    # with Adam; Chen et al. 2018, whose schedule it is, used 1e-4 and 1e-5.
    "paper": Recipe(
        crops=CropOptions(photos=1, crops=1, sides=(512, 1024), multiple=32),
        loss="joint",
        lr=1e-4,
        last_lr=1e-5,
        schedule="halves",
        epochs=4000,
    ),
    "paper-as-printed": Recipe(
        crops=CropOptions(photos=1, crops=1, sides=(512, 1024), multiple=32),
        loss="joint",
        lr=0.1,
        last_lr=0.01,
        schedule="halves",
        epochs=4000,
    ),
    "small": _SMALL_RECIPE,
    # For weights that are there already (`--init-from`): their skips need not be kept down first,
    # and photos of more kinds in a step teach more than more crops of one do.
    "finetune": replace(
        _SMALL_RECIPE,
        crops=CropOptions(
            photos=2, crops=2, sides=(64, 128), multiple=16, late_sides=(96, 192), late_from=0.6
        ),
        skip_dropout_until=0.0,
        auxiliary_weight=0.3,
        teacher_forcing_until=0.5,
        checkerboard_weight=1.0,
    ),
    # Large crops of many photos, of one side at a time: so that the fastest convolutions are looked
    # for once, and one compiled graph serves all steps.
    "gpu": replace(
        _SMALL_RECIPE,
        crops=CropOptions(
            photos=16, crops=2, sides=(256, 256), multiple=16, late_sides=(384, 384), late_from=0.7
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What to train, on what, and where to put it."""

    run: Path
    camera: CameraFamily = "sony"
    data: Path | None = None
    """A tree with SID's names and lists; either this or `photos`."""
    photos: tuple[Path, ...] = ()
    """Photographs, folders of them, or packed ones."""
    recipe: RecipeName = "small"
    network: str = "gia-net"
    width: int | None = None
    """Channels of the first level; None: the network's published size."""
    steps: int | None = None
    budget_s: float | None = None
    """Train this many seconds instead of a number of steps."""
    white_balance: WhiteBalanceMode = "learned"
    """Whether the network gets the photo's white balance."""
    init_from: str | None = None
    """Weights to start from, of either colour filter array."""
    teacher: str | None = None
    """Weights whose picture is a target too; see `distillation`."""
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe to replace: lr, loss, ..."""
    crops: CropOptions | None = None
    """Shape of a batch, instead of the recipe's; what follows replaces parts of it."""
    validation_sources: tuple[str, ...] = ()
    """Folders of photographs that are all kept for validation; none: one photograph in 16."""
    clip_black: bool | None = None
    """Whether the planes are clipped at black; None: as the recipe does (the published ones do)."""
    sides: tuple[int, int] | None = None
    """Crop sides in packed pixels from start to end."""
    photos_per_step: int | None = None
    crops_per_photo: int | None = None
    vgg: Path | None = None
    """Features for the loss "zamir"."""
    cache: Path | None = None
    """Folder for decoded data."""
    verify: bool = False
    """Whether the bytes of decoded data are read again and compared with their checksums."""
    device: DeviceName = "auto"
    precision: Precision = "auto"
    workers: int | None = None
    """Processes that make crops; None: 1, with the recipe "gpu" all cores but two, and none where
    torch simulates."""
    simulation: SimulationName = "auto"
    """What simulates exposures of photographs: NumPy in the workers, or torch on the device."""
    compile: bool = False
    """Whether torch compiles the network; needs a compiler, and minutes at the start."""
    checkpoint_every_s: float = 300
    validate_every_s: float = 600

    def __post_init__(self) -> None:
        """Raise `UsageError` for contradictions and impossible numbers."""
        if (self.data is None) == (not self.photos):
            raise UsageError("Give either --data TREE or --photos FOLDER.", hint=HELP)
        if self.steps is not None and self.budget_s is not None:
            raise UsageError("Give --steps or --budget, not both.", hint=HELP)
        if self.network not in NETWORKS:
            names = ", ".join(NETWORKS)
            raise UsageError(f"There is no network '{self.network}' ({names}).", hint=HELP)
        positive = {
            "--steps": self.steps,
            "--budget": self.budget_s,
            "--width": self.width,
            "--photos-per-step": self.photos_per_step,
            "--crops-per-photo": self.crops_per_photo,
            "--lr": self.changes.get("lr"),
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be positive, not {value:g}.", hint=HELP)
        for name in ("auxiliary_weight", "checkerboard_weight", "raw_weight"):
            weight = self.changes.get(name, 0.0)
            if not 0 <= weight < math.inf:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} must be 0 or more, not {weight:g}.", hint=HELP)
        self._check_teacher()
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers must be 0 or more, not {self.workers}.", hint=HELP)
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must be between 0 and 2^63, not {self.seed}.", hint=HELP)
        if self.validation_sources and self.data is not None:
            raise UsageError(
                "--validate-on is for photographs; a data set has its own validation list.",
                hint=HELP,
            )
        if self.changes.get("raw_weight") and self.data is not None:
            raise UsageError(
                "--raw-weight is for photographs: nobody knows real exposures without their noise.",
                hint=HELP,
            )
        if self.simulation != "auto" and self.data is not None:
            raise UsageError("--simulation is for photographs.", hint=HELP)
        if self.simulation == "torch" and self.workers:
            raise UsageError(
                "--workers is for --simulation numpy: torch needs no other processes.", hint=HELP
            )
        if self.sides is not None:
            self._check_sides(*self.sides)

    def _check_teacher(self) -> None:
        share = self.changes.get("teacher_weight")
        if share is None:
            return
        if self.teacher is None:
            raise UsageError("--teacher-weight needs --teacher.", hint=HELP)
        if not 0 < share <= 1:
            raise UsageError(
                f"--teacher-weight must be above 0 and at most 1, not {share:g}.", hint=HELP
            )

    def _check_sides(self, smallest: int, largest: int) -> None:
        if not 0 < smallest <= largest:
            raise UsageError("--sides takes the smallest and the largest side.", hint=HELP)
        multiple = RECIPES[self.recipe].crops.multiple
        if largest // multiple * multiple < smallest:
            raise UsageError(
                f"--sides {smallest}-{largest} contains no multiple of {multiple}, which the "
                f"recipe '{self.recipe}' needs.",
                hint=f"Use for example --sides {-(-smallest // multiple) * multiple}.",
            )

    @property
    def kind(self) -> CfaKind:
        """Colour filter array of the camera."""
        return KINDS[self.camera]

    def full_recipe(self) -> Recipe:
        """Return the named recipe with the changes applied."""
        taught = {} if self.teacher is None else {"teacher_weight": TEACHER_WEIGHT}
        recipe = replace(RECIPES[self.recipe], **{**taught, **self.changes})
        crops = self.crops or recipe.crops
        if self.sides is not None:
            crops = replace(crops, sides=self.sides, late_sides=None)
        if self.photos_per_step is not None:
            crops = replace(crops, photos=self.photos_per_step)
        if self.crops_per_photo is not None:
            crops = replace(crops, crops=self.crops_per_photo)
        return replace(recipe, crops=crops)

    def net_config(self) -> NetConfig:
        """Return the network to build."""
        is_published = self.recipe in ("paper", "paper-as-printed")
        clips = is_published if self.clip_black is None else self.clip_black
        config = replace(
            NETWORKS[self.network],
            cfa=self.kind,
            white_balance=self.white_balance,
            input_floor=0 if clips else None,
        )
        return config if self.width is None else replace(config, width=self.width)


HELP = "See 'gia train --help'."
