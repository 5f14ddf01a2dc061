"""The three identities that are drawn. They do not show real persons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_training.painting import Colour


@dataclass(frozen=True, slots=True)
class Identity:
    """The appearance of one drawn person."""

    skin: Colour
    skin_shade: Colour
    skin_light: Colour
    lips: Colour
    lips_light: Colour
    hair: Colour
    hair_light: Colour
    iris: Colour
    cloth: Colour
    cloth_shade: Colour
    backdrop: tuple[Colour, Colour]
    cut: Literal["long", "short", "bob"]
    brow: float = 6.0
    jaw: float = 1.0
    """Width of the chin: below 1 pointed, above 1 square."""


IDENTITIES: Final[Mapping[str, Identity]] = {
    "anna": Identity(
        skin=(244, 205, 178), skin_shade=(203, 140, 112), skin_light=(255, 230, 210),
        lips=(196, 92, 92), lips_light=(232, 146, 138), hair=(116, 56, 34),
        hair_light=(184, 104, 62), iris=(84, 128, 92), cloth=(38, 118, 128),
        cloth_shade=(22, 78, 92), backdrop=((226, 236, 240), (160, 190, 206)), cut="long",
        brow=5.0, jaw=0.94,
    ),
    "ben": Identity(
        skin=(160, 108, 78), skin_shade=(106, 64, 44), skin_light=(198, 146, 112),
        lips=(134, 70, 62), lips_light=(176, 106, 94), hair=(30, 24, 24),
        hair_light=(72, 58, 54), iris=(70, 42, 24), cloth=(222, 164, 62),
        cloth_shade=(170, 112, 34), backdrop=((244, 232, 214), (214, 186, 152)), cut="short",
        brow=8.0, jaw=1.1,
    ),
    "mira": Identity(
        skin=(234, 190, 152), skin_shade=(190, 130, 94), skin_light=(250, 218, 186),
        lips=(184, 76, 84), lips_light=(222, 128, 128), hair=(34, 30, 42),
        hair_light=(86, 80, 108), iris=(74, 56, 42), cloth=(140, 82, 150),
        cloth_shade=(94, 50, 106), backdrop=((236, 230, 244), (188, 176, 212)), cut="bob",
        brow=5.5, jaw=1.0,
    ),
}  # fmt: skip
