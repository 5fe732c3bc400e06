# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ex4d_engine.diffusion.tiers import TIERS, chosen_tier, need_gib, next_smaller, tier_named
from ex4d_engine.errors import Ex4dError

WAN = (16_394_878_784, 40, 5120, 13312)


def test_a_smaller_tier_needs_less_on_the_14b_model() -> None:
    needs = [need_gib(tier, tier.precision, *WAN) for tier in TIERS]

    assert needs == sorted(needs, reverse=True)


@pytest.mark.parametrize(("free", "name"), [(75.0, "48"), (46.0, "48"), (23.5, "24"), (15.0, "16")])
def test_auto_takes_the_fastest_that_fits(free: float, name: str) -> None:
    assert chosen_tier("auto", "auto", free, *WAN)[0].name == name


def test_a_tier_that_does_not_fit_offers_the_next() -> None:
    with pytest.raises(Ex4dError) as caught:
        chosen_tier("48", "auto", 20.0, *WAN)

    assert (caught.value.code, caught.value.action) == ("out_of_memory", "tier:24")
    assert "20.0 are free" in caught.value.message


def test_where_nothing_fits_preview_is_offered() -> None:
    with pytest.raises(Ex4dError) as caught:
        chosen_tier("auto", "auto", 1.0, *WAN)

    assert caught.value.action == "preset:preview"


def test_exact_precision_passes_over_no_tier_that_keeps_it() -> None:
    tier, precision, _ = chosen_tier("auto", "exact", 23.0, *WAN)

    assert (tier.name, precision) == ("16", "exact")


@pytest.mark.parametrize(("tier", "precision"), [("36", "auto"), ("auto", "float4")])
def test_unknown_names_are_refused(tier: str, precision: str) -> None:
    with pytest.raises(Ex4dError) as caught:
        chosen_tier(tier, precision, 80.0, *WAN)

    assert caught.value.code == "bad_request"


def test_order_of_the_tiers() -> None:
    assert next_smaller(tier_named("12")) is None
    assert next_smaller(tier_named("24")) == tier_named("16")
