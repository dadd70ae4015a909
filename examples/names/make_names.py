"""Invented family names in the style of some countries, made by rules: a label, a tab and a name on each line.

    python make_names.py > names.tsv

The rules only look like the languages. They are here so that the example needs no data of anybody's.
"""

from __future__ import annotations

import argparse
import random

# Of a style: beginnings, middles (one or two of them may be left out), and endings.
STYLES = {
    "Finnish": ("Ah Ha Ka Kor La Mä Nie Pa Sa Vir", "ho ka la ma ni pe ro ta", "la nen nen nen ri"),
    "Georgian": ("Be Cha Da Gel Ka Lo Ma Nu Tse", "ba ga ka li na ra va", "dze dze shvili shvili ia"),
    "Icelandic": ("Arn Björn Ein Gunn Hall Jón Sig Þór", "a ar u ur", "sdóttir sson"),
    "Italian": ("Ba Bel Co Fer Ga Lo Man Pa Ro Sal", "bi ca ci let na ra ta ven", "elli etti ini one ucci"),
    "Japanese": ("A Fu Ha I Ka Ko Mi Na Sa Ta Ya", "ka ma mo na ra shi su to", "da kawa moto mura shima yama"),
    "Polish": ("Bo Cza Gra Ja Ko Le Ma No Wi Za", "ja ko le li ma ro wa", "cki czyk ska ski wicz"),
}


def name(style: str, draw: random.Random) -> str:
    """One name."""
    beginnings, middles, endings = (parts.split() for parts in STYLES[style])
    return draw.choice(beginnings) + "".join(draw.choices(middles, k=draw.choice((0, 1, 1, 2)))) + draw.choice(endings)


def main() -> None:
    """Prints the lines, in a mixed order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=6000, help="how many names in all")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    for _ in range(args.num):
        style = draw.choice(list(STYLES))
        print(f"{style}\t{name(style, draw)}")


if __name__ == "__main__":
    main()
