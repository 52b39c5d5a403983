"""Events: films are frozen, objects stay apart, and every modality tells what its table says.

The readers on 2,000 events are measured by ``benchmarks.scenes_senses``; a few of them are read here.
"""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow.files.mel import HOP, RATE, log_mel, wave_of
from crossflow.scenes import SPLITS, example, render
from crossflow.scenes.events import BOUNCES, FRAMES, event
from crossflow.scenes.facts import (
    FACTORS,
    MODALITIES,
    OF_THINGS,
    TOLD,
    Facts,
    Thing,
    only,
    right,
    tells,
    told,
    untold,
)
from crossflow.scenes.motion import film, moved
from crossflow.scenes.render import coverage
from crossflow.scenes.sense import SENSES, read, value
from crossflow.scenes.sound import waveform

FILMS = "5b182fd2cd7a0dcf"
SOUNDS = {
    "train": [-1.37013, 64.808],
    "val": [1.94777, 37.9449],
    "test": [1.13382, 30.9927],
    "test_heldout": [0.94406, 58.3825],
}
SOME = [event(split, i) for split in SPLITS for i in range(4)]
NAMES = [name for name in TOLD if name != "text"]


def read_as(item, name):
    modality, _, form = name.partition("-")
    return read(modality, value(item, modality, int(form or 0)))


def test_films_never_change():
    assert hashlib.sha256(b"".join(film(item).tobytes() for item in SOME)).hexdigest()[:16] == FILMS


@pytest.mark.parametrize("split", SPLITS)
def test_sounds_never_change(split):
    """Sums against fixed numbers, since sines differ by their last bit between machines."""
    item = event(split, 0)
    wave = waveform(item)
    weights = np.random.default_rng(0).normal(size=RATE)
    found = [float(weights @ wave), float(weights[:1024] @ log_mel(wave).ravel())]
    assert found == pytest.approx(SOUNDS[split], rel=1e-4)


def test_an_event_is_its_example_and_a_bounce_that_depends_on_nothing_else():
    item = event("val", 17)
    assert item.example == example("val", 17)
    assert event("val", 17) == item
    seen = Counter(event("train", i).bounce for i in range(300))
    assert set(seen) == set(BOUNCES) == {1, 2, 3, 4, 5, 6}
    assert min(seen.values()) > 30


@pytest.mark.parametrize("item", SOME, ids=lambda item: item.id)
def test_a_film_begins_with_the_image_and_its_objects_meet_neither_each_other_nor_the_edge(item):
    assert (film(item)[0] == render(item.scene)).all()
    for frame in range(FRAMES):
        covered = np.zeros((32, 32))
        for each in moved(item, frame).objects:
            assert each.radius <= min(each.x, 1.0 - each.x)
            rows, columns, share = coverage(each, 32)
            covered[rows, columns] += share
        assert covered.max() <= 1.0 + 1e-9


@pytest.mark.parametrize("bounce", BOUNCES)
def test_every_object_is_farthest_from_where_it_began_at_the_bounce(bounce):
    item = replace(event("test", 2), bounce=bounce)
    gone = np.array(
        [
            [abs(a.x - b.x) for a, b in zip(moved(item, k).objects, item.scene.objects, strict=True)]
            for k in range(FRAMES)
        ]
    )
    assert (gone.argmax(axis=0) == bounce).all()
    assert gone[bounce] == pytest.approx(0.125)
    assert gone[[0, -1]] == pytest.approx(0.0)


def test_a_click_in_the_middle_of_a_part_is_heard_in_its_frame_alone():
    for frame in (0, 1, 17, 31):
        wave = np.zeros(RATE)
        wave[frame * HOP + HOP // 2] = 1.0
        magnitude = np.exp(log_mel(wave))
        assert (magnitude.argmax(axis=1) == frame).all()
        assert np.delete(magnitude, frame, axis=1).max() < 0.01 * magnitude.max()


def test_bands_are_those_of_mels_formula():
    """A tone at the centre of a band is loudest there; centres are equal steps of 2595 log10(1 + f / 700)."""
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34)[1:-1] / 2595) - 1)
    for band in (3, 10, 20, 31):
        tone = np.sin(2 * np.pi * centres[band] * np.arange(RATE) / RATE)
        assert (log_mel(tone)[:, 4:28].argmax(axis=0) == band).all()


def test_a_spectrogram_becomes_a_wave_with_the_same_notes_and_the_same_wave_again():
    item = event("test", 0)
    mel = log_mel(waveform(item))
    wave = wave_of(mel)
    assert wave.shape == (RATE,) and wave.dtype == np.float32
    assert (wave_of(mel) == wave).all()
    heard = read("audio", log_mel(wave))
    assert all(right(heard, tells(item, "audio"), factor) for factor in ("count", "shape", "color", "column", "bounce"))


@pytest.mark.parametrize("item", SOME, ids=lambda item: item.id)
def test_a_sound_stays_within_what_a_file_holds(item):
    wave = waveform(item)
    assert wave.dtype == np.float32 and wave.shape == (RATE,) and abs(wave).max() < 1.0


@pytest.mark.parametrize("name", NAMES)
def test_what_a_modality_tells_is_read_from_it_and_nothing_else(name):
    for item in SOME:
        found, true = read_as(item, name), tells(item, name)
        known = told(name, item.example.task)
        for factor in FACTORS:
            telling = factor in known and (factor != "relation" or true.relation is not None)
            assert right(found, true, factor) is (True if telling else None), (item.id, factor)
            if factor in OF_THINGS and factor not in known:
                assert all(getattr(thing, factor) is None for thing in found.things), (item.id, factor)
            if factor in ("night", "bounce") and factor not in known:
                assert getattr(found, factor) is None, (item.id, factor)


def test_each_modality_has_a_sense_and_a_line_in_the_table():
    assert tuple(SENSES) == MODALITIES
    assert set(MODALITIES) <= set(TOLD) and set().union(*TOLD.values()) == set(FACTORS)
    assert {name for name in MODALITIES if "depth" in TOLD[name]} == {"depth", "audio"}


def test_what_is_untold_is_what_all_of_the_wanted_and_none_of_the_given_tell():
    assert untold(["audio", "video"], ["text-2"]) == {"column", "night", "bounce"}
    assert untold(["image", "audio"], ["text-0"], "colors") == {"column", "night"}
    assert untold(["image", "audio"], ["text-0"], "counting") == {"color", "column", "night"}


RED_BALL, BLUE_BOX = (
    Thing(shape="ball", color="red", column=0, row=1),
    Thing(shape="box", color="blue", column=2, row=1),
)


def test_facts_are_in_order_and_judged_by_counterparts():
    true = Facts(things=(BLUE_BOX, RED_BALL), night=True)
    assert true.things == (RED_BALL, BLUE_BOX)
    swapped = Facts(things=(replace(RED_BALL, color="blue"), replace(BLUE_BOX, color="red")), night=False)
    assert [right(swapped, true, factor) for factor in ("count", "shape", "color", "column", "night", "bounce")] == [
        *(True, True, False, True, False, None)
    ]
    fewer = Facts(things=(RED_BALL,))
    assert right(fewer, true, "shape") is right(fewer, true, "count") is right(fewer, true, "night") is False
    assert right(true, only(true, {"count", "shape"}), "color") is None
    with pytest.raises(ValueError, match="unknown factor 'size'"):
        right(true, true, "size")


def test_a_depth_may_be_a_quarter_off_and_a_place_half_a_cell():
    true = Facts(things=(Thing(depth=4.0, column=1),))
    judged = {depth: right(Facts(things=(Thing(depth=depth),)), true, "depth") for depth in (3.1, 3.3, 4.9, 5.1)}
    assert judged == {3.1: False, 3.3: True, 4.9: True, 5.1: False}
    judged = {column: right(Facts(things=(Thing(column=column),)), true, "column") for column in (0, 1, 1.5, 2)}
    assert judged == {0: False, 1: True, 1.5: True, 2: False}


def test_a_relation_is_said_from_either_side_or_seen():
    true = Facts(relation=("ball", "left of", "box"), things=(RED_BALL, BLUE_BOX))
    assert right(Facts(relation=("box", "right of", "ball")), true, "relation")
    assert right(Facts(things=(RED_BALL, BLUE_BOX)), true, "relation")
    assert right(Facts(relation=("box", "left of", "ball")), true, "relation") is False
    assert right(Facts(things=(RED_BALL, replace(BLUE_BOX, row=None))), true, "relation") is False


def test_texts_are_read_with_places_and_relations():
    placed = read("text", "A red ball at the top left, two boxes and a cone in the middle by night").things
    assert Thing(shape="ball", color="red", column=0, row=0) in placed
    assert Thing(shape="cone", column=1.5, row=1.5) in placed
    assert placed.count(Thing(shape="box")) == 2
    said = read("text", "a photo of a ring left of a box")
    assert said.relation == ("ring", "left of", "box") and said.things[0].column is None
    assert read("text", "nothing of this world, by day and at night") == Facts()


def test_where_nothing_happens_nothing_is_read():
    item = event("test", 1)
    still = np.repeat(film(item)[:1], FRAMES, axis=0)
    assert read("video", still).bounce is None
    assert read("video", np.full((8, 32, 32, 3), 128, np.uint8)).things == ()
    assert read("audio", log_mel(np.zeros(RATE))) == Facts(night=False)
    assert read("depth", np.full((32, 32), np.inf, np.float32)) == Facts()


@pytest.mark.parametrize("spread", [3.0, 100.0, np.inf])
def test_a_spectrogram_of_anything_is_read_as_something(spread):
    mel = np.random.default_rng(0).choice([-1.0, 0.5, 1.0], (32, 32)) * spread
    assert read("audio", mel.astype(np.float32)).night is not None


@pytest.mark.parametrize(
    ("modality", "given", "message"),
    [
        ("smell", "roses", "Unknown modality 'smell'. Available: text, image, depth, audio, video"),
        ("text", 3, "must be a string, got int"),
        ("video", np.zeros((1, 32, 32, 3), np.uint8), r"must be uint8 \[8, 32, 32, 3\]"),
        ("audio", np.zeros((32, 33), np.float32), r"must be float32 \[32, 32\] without NaN, got float32 \[32, 33\]\."),
        ("depth", np.array([["near"]]), "must be float32"),
        ("depth", np.full((32, 32), np.nan, np.float32), "with NaN"),
    ],
)
def test_a_value_that_is_none_of_its_modality_is_an_error(modality, given, message):
    with pytest.raises(CrossFlowError, match=message):
        read(modality, given)


def test_a_sound_of_another_length_and_a_spectrogram_with_holes_are_errors():
    with pytest.raises(CrossFlowError, match="give 16000 samples"):
        log_mel(np.zeros(8000))
    with pytest.raises(CrossFlowError, match="finite numbers"):
        wave_of(np.full((32, 32), np.nan, np.float32))
