"""What a job will probably cost: the median of the newest charges of jobs like it."""

from decimal import Decimal

import pytest

from receiver.domain.model import Json
from receiver.kling import endpoints
from receiver.kling.prices import (
    MAX_SAMPLES,
    PriceKind,
    kind_model,
    kind_options,
    learn_price,
    learn_prices,
    price_kind,
)


def kind(path: str = "videos/text2video", **body: object) -> PriceKind:
    endpoint = endpoints.resolve(path)
    assert endpoint is not None
    return price_kind(endpoint, body)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a dog", "callback_url": "https://a.example.com"},
        {"model_name": "kling-v1"},
        {"sound": "off"},
        {"n": None},
    ],
)
def test_members_that_do_not_affect_the_price_make_one_kind(body: Json) -> None:
    assert kind(**body) == kind(prompt="a cat")


@pytest.mark.parametrize(
    "body",
    [{"mode": "pro"}, {"duration": "10"}, {"sound": "on"}, {"model_name": "kling-v2-6"}, {"resolution": "1080p"}],
)
def test_members_that_affect_the_price_make_another_kind(body: Json) -> None:
    assert kind(**body) != kind()


def test_options_of_the_new_generation_are_in_its_settings() -> None:
    path = "text-to-video/kling-3.0-turbo"

    assert kind(path, settings={"duration": 10}) != kind(path, settings={"duration": 5})


def test_the_newest_charges_count() -> None:
    past = [(kind(), {"units": Decimal(1)})] * MAX_SAMPLES + [(kind(), {"units": Decimal(99)})] * 50

    price = learn_price(kind(), past)

    assert price is not None
    assert (price.charges, price.tasks) == ({"units": Decimal(1)}, MAX_SAMPLES)


def test_a_price_is_exact() -> None:
    past = [(kind(), {"units": Decimal(amount)}) for amount in ("0.1", "0.2")]

    assert str(learn_price(kind(), past)) == "about 0.15 units (median of 2 like it)"


def test_without_a_charge_there_is_no_price() -> None:
    assert learn_price(kind(), []) is None
    assert learn_price(kind(), [(kind(mode="pro"), {"units": Decimal(1)}), (kind(), {})]) is None


def test_each_kind_has_its_price_the_newest_first() -> None:
    pro, plain = kind(model_name="kling-v2-6", mode="pro", duration="10", sound="on"), kind()
    past = [(pro, {"units": Decimal(2)}), (plain, {"units": Decimal(1)}), (pro, {"units": Decimal(4)}), (plain, {})]

    prices = learn_prices(past, limit=2)

    assert [(each, price.charges, price.tasks) for each, price in prices] == [
        (pro, {"units": Decimal(3)}, 2),
        (plain, {"units": Decimal(1)}, 1),
    ]
    assert learn_prices(past, limit=1) == prices[:1]
    assert (kind_model(pro), kind_options(pro)) == ("kling-v2-6", ["mode pro", "duration 10", "sound"])
