"""Which contrasts a model is given: all that a case has, some withheld, or each subset of them.

A *condition* says for any case what of its contrasts is given, so one condition makes one table of
the paper: all that the case has (Table 1), all but T2 (Table 2).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from amae_nnunet.errors import ConfigError
from amae_nnunet.subsets import JOINT, Subset

#: The choices of subsets that need no names.
CHOICES = ("all", "required")


def parse_subset(text: str, contrasts: Sequence[str]) -> Subset:
    """``T2+ADC`` -> ``("ADC", "T2")``, in channel order.

    Raises:
        ConfigError: a name that is not among ``contrasts``, or none.
    """
    names = [name for name in text.split(JOINT) if name]
    unknown = [name for name in names if name not in contrasts]
    if unknown or not names:
        raise ConfigError(
            f"{text!r} names no contrasts of the images: they have {', '.join(contrasts)}; join "
            f"several with {JOINT}"
        )
    return tuple(name for name in contrasts if name in names)


@dataclass(frozen=True)
class Condition:
    """What is withheld from every case that has it."""

    drop: Subset = ()

    @property
    def name(self) -> str:
        """For headings."""
        return f"without {', '.join(self.drop)}" if self.drop else "as each case is"

    def given(self, had: Subset) -> Subset:
        """What a case that has ``had`` gives; nothing if all of it is withheld."""
        return tuple(name for name in had if name not in self.drop)


def powerset(had: Subset, fixed: Collection[str] = ()) -> list[Subset]:
    """The subsets of ``had`` that hold all of ``fixed`` that is in ``had``, largest first.

    The empty one is not among them: nothing can be predicted from it.
    """
    free = [name for name in had if name not in fixed]
    found = []
    for size in range(len(free), -1, -1):
        for chosen in itertools.combinations(free, size):
            subset = tuple(name for name in had if name in fixed or name in chosen)
            found += [subset] if subset else []
    return found


def fixed_contrasts(required: Sequence[str]) -> frozenset[str]:
    """The contrasts that are never withheld where required ones stay.

    Of several of which a case must have one (``SWI|GRE``), all that it has stay.
    """
    return frozenset(name for entry in required for name in entry.split("|"))


@dataclass(frozen=True)
class Wanted:
    """What is to be predicted of each case.

    Attributes:
        conditions: that make the tables; the first withholds nothing.
        choice: ``all`` subsets of what the case has, those that keep what is ``required``, or
            None for neither.
        chosen: subsets by name; a case that has not all of one is left out of it.
        required: of the models' data set.
    """

    conditions: tuple[Condition, ...] = (Condition(),)
    choice: str | None = None
    chosen: tuple[Subset, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def fixed(self) -> frozenset[str]:
        """The contrasts that the subsets of the choice always keep."""
        return fixed_contrasts(self.required) if self.choice == "required" else frozenset()

    @property
    def withholds(self) -> bool:
        """Whether any case is to be predicted from less than it has."""
        return bool(len(self.conditions) > 1 or self.choice or self.chosen)

    def of_case(self, had: Subset) -> list[Subset]:
        """The subsets to predict of a case, each once, without the empty one."""
        subsets = [condition.given(had) for condition in self.conditions]
        subsets += [subset for subset in self.chosen if set(subset) <= set(had)]
        if self.choice:
            subsets += powerset(had, self.fixed)
        return [subset for subset in dict.fromkeys(subsets) if subset]


def parse_wanted(
    drop: Iterable[str],
    subsets: Iterable[str],
    contrasts: Sequence[str],
    required: Sequence[str],
) -> Wanted:
    """What the options ask for.

    Args:
        drop: contrasts to withhold, each alone; several joined by ``+`` together.
        subsets: ``all``, ``required``, or subsets by name.
        contrasts: of the images, in channel order.
        required: of the models' data set.

    Raises:
        ConfigError: names that are not contrasts, or words that exclude each other.
    """
    subsets = list(subsets)
    choices = [word for word in subsets if word in CHOICES]
    if len(set(choices)) > 1:
        raise ConfigError("--subsets: give all or required, not both")
    conditions = [Condition(), *(Condition(parse_subset(text, contrasts)) for text in drop)]
    chosen = [parse_subset(text, contrasts) for text in subsets if text not in CHOICES]
    return Wanted(
        tuple(dict.fromkeys(conditions)),
        choices[0] if choices else None,
        tuple(dict.fromkeys(chosen)),
        tuple(required),
    )
