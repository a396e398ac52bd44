"""The rooms of `src/gpt2/` on their floors, and the picture of them in CONTRIBUTING.md.

``python -m scripts.house`` redraws the picture.
"""

from scripts.deps import ROOT, imports

FLOORS = (
    {"core"},
    {"data", "tracking"},
    {"model"},
    {"inference"},
    {"training", "evaluation"},
    {"report"},
    {"pipeline"},
    {"cli"},
)
"""From the bottom up. A module imports from its own room and from rooms on lower floors."""
STAGES = "stages"
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "```mermaid\n", "```\n"


def rooms_imported(room: str) -> set[str]:
    """The other rooms of gpt2 that the files of a room import from; `STAGES` is one, too."""
    folder = ROOT / STAGES if room == STAGES else ROOT / "src" / "gpt2" / room
    names = {name for file in folder.rglob("*.py") for name in imports(file)}
    return {name.split(".")[1] for name in names if name.startswith("gpt2.")} - {room}


def needed_arrows(imported: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports without those that follow from others: a room above another sees all below it."""

    def below(room: str) -> set[str]:
        return imported[room].union(*(below(other) for other in imported[room]))

    return [
        (room, other)
        for room, others in imported.items()
        for other in sorted(others)
        if not any(other in below(third) for third in others - {other})
    ]


def picture() -> str:
    """The rooms and their imports as a Mermaid flowchart."""
    rooms = [room for floor in reversed(FLOORS) for room in sorted(floor)]
    imported = {room: rooms_imported(room) for room in [STAGES, *rooms]}
    lines = ["flowchart TD"]
    lines += [f"  {room}[{room}/]" for room in imported]
    lines += [f"  {room} --> {other}" for room, other in needed_arrows(imported)]
    return "\n".join(lines) + "\n"


def with_picture(text: str) -> str:
    """A page with the picture in place of the one that it has."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + picture() + END + after


def main() -> None:
    """Redraw the picture."""
    PAGE.write_text(with_picture(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
