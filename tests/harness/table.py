"""Prints figures side by side, with the ratio of each other side to the first."""


def print_table(figures: dict[str, dict[str, float]], sides: list[str]) -> None:
    """One row a figure; a side that does not have it shows a dash."""
    width = max(len(name) for name in figures)
    columns = [*sides, *(f"{side}/{sides[0]}" for side in sides[1:])]
    print(f"{'':{width}}  " + "  ".join(f"{column:>16}" for column in columns))
    for name, values in figures.items():
        cells = [values.get(side) for side in sides]
        cells += [values[side] / values[sides[0]] if side in values and values[sides[0]] else None for side in sides[1:]]
        print(f"{name:{width}}  " + "  ".join(f"{'-' if cell is None else f'{cell:.2f}':>16}" for cell in cells))
