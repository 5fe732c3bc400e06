# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ex4d_engine import bundled_model
from ex4d_engine.diffusion.tiers import TIERS, chosen_tier, need_gib, next_smaller, tier_named
from ex4d_engine.errors import Ex4dError

WAN = (16_394_878_784, 40, 5120, 13312)


def test_a_smaller_tier_needs_less_on_the_14b_model() -> None:
    needs = [need_gib(tier, tier.precision, *WAN) for tier in TIERS]

    assert needs == sorted(needs, reverse=True)


# 21.5 are free on a card of 24 GB that also draws a desktop
@pytest.mark.parametrize(("free", "name"), [(75.0, "48"), (46.0, "48"), (21.5, "24"), (15.0, "16")])
def test_auto_takes_the_fastest_that_fits(free: float, name: str) -> None:
    assert chosen_tier("auto", "auto", free, *WAN)[0].name == name


def test_a_tier_that_does_not_fit_offers_the_next() -> None:
    with pytest.raises(Ex4dError) as caught:
        chosen_tier("48", "auto", 20.0, *WAN)

    assert (caught.value.code, caught.value.action) == ("out_of_memory", "tier:24")
    assert "20.0 are free" in caught.value.message


@pytest.mark.parametrize(("has_draft", "offered"), [(True, "draft"), (False, "preview")])
def test_where_nothing_fits_a_smaller_preset_is_offered(
    monkeypatch: pytest.MonkeyPatch, has_draft: bool, offered: str
) -> None:
    monkeypatch.setattr(bundled_model, "has_bundled_model", lambda: has_draft)
    with pytest.raises(Ex4dError) as caught:
        chosen_tier("auto", "auto", 1.0, *WAN)
    assert caught.value.action == f"preset:{offered}" and f"preset {offered}" in caught.value.hint


def test_draft_is_not_offered_in_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_model, "has_bundled_model", lambda: True)
    with pytest.raises(Ex4dError) as caught:
        chosen_tier("12", "exact", 0.3, bundled_model.PARAMETERS, 10, 384, 3328, 5.0)
    assert caught.value.action == "preset:preview"


@pytest.mark.parametrize("tier", ["24", "16", "12"])
def test_where_small_models_are_offloaded_the_vae_in_bands_counts(tier: str) -> None:
    kept = tier_named(tier)
    whole, banded = 21.5 / 4, 12.2 / 4  # GiB of 512²
    without_vae = need_gib(kept, kept.precision, *WAN[:3], tokens=0)
    assert need_gib(kept, kept.precision, *WAN) == pytest.approx(without_vae + banded)
    assert need_gib(kept, kept.precision, *WAN, vae_gib=5.0) < without_vae + banded  # another VAE, of less
    exact = need_gib(tier_named("48"), "exact", *WAN) - need_gib(tier_named("48"), "exact", *WAN[:3], tokens=0)
    assert exact == pytest.approx(whole)


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
