"""What a chip costs by the hour: a small table that is meant to be edited, with its date."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from lit_tune.errors import ConfigError, explain
from lit_tune.planning.chips import CHIPS

SHIPPED = Path(__file__).parent / "prices.json"


class Prices(NamedTuple):
    """A price table.

    Attributes:
        date: that it was true on, YYYY-MM-DD.
        source: where it is from, region included.
        usd: {chip: US dollars per chip and hour}.
    """

    date: str
    source: str
    usd: dict[str, float]


def load(file: str | None = None) -> Prices:
    """The table in a file, by default the shipped one.

    Raises:
        ConfigError: no such file, or not a price table.
    """
    path = SHIPPED if file is None else Path(file).expanduser()
    form = 'JSON like {"date": "2026-11-25", "region": ..., "source": ..., "prices": {"v5e": 1.2}}'
    try:
        page = json.loads(path.read_text())
        usd = {name: float(price) for name, price in page["prices"].items()}
        prices = Prices(str(page["date"]), f"{page['region']}; {page['source']}", usd)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ConfigError(explain(f"--prices {path}", expected=form, found=said, do="check the file")) from error
    wrong = [name for name, price in usd.items() if name not in CHIPS or not (price >= 0 and math.isfinite(price))]
    if wrong:
        raise ConfigError(explain(f"--prices {path}", expected=f"dollars for {', '.join(CHIPS)}",
                                  found=f"{wrong[0]}: {usd[wrong[0]]}", do="change that line"))  # fmt: skip
    return prices
