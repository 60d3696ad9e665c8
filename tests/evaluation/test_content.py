"""How items are shown: as their reader says, else as image, recording or identity; and where they come from."""

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from webdataset import TarWriter

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.report.collect import compare
from mmvicreg.evaluation.report.content import SampleContent
from mmvicreg.evaluation.report.figures import Example, Result
from mmvicreg.evaluation.report.html import render
from mmvicreg.evaluation.report.page import RunReport
from mmvicreg.shards.index import open_index
from mmvicreg.stream.reader import Item, Reader, Recording


@dataclass(frozen=True)
class Plain(Reader):
    """Reads one member; shows it by default."""

    suffix: str
    shown: object = None

    @property
    def members(self):
        return (self.suffix,)

    @property
    def shape(self):
        return (1,)

    @property
    def dtype(self):
        return torch.float32

    def items(self, sample):
        return [Item(torch.zeros(1), identity="an identity")] if self.suffix in sample.members else []

    def show(self, sample, identity):
        return self.shown


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (250, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def wav():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(8_000) / 10).astype(np.float32), 8_000, format="WAV")
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "mixed-000000.tar"
    about = {"file": "sounds/sea.wav", "row": 3}
    with TarWriter(str(path)) as writer:
        writer.write(
            {"__key__": "0001", "png": png(), "wav": wav(), "npy": b"12", "txt": "a red sea", "json": about}
        )
        writer.write({"__key__": "0002", "png": b"damaged", "json": {"rows": [1, 2, 3, 4, 5, 6, 7]}})
        writer.write({"__key__": "0003", "npy": b"12"})
    return open_index(str(path))


def test_without_a_word_of_the_reader_images_and_recordings_are_shown(index):
    content = SampleContent({"image": Plain("png"), "sound": Plain("wav"), "numbers": Plain("npy")}, index)
    image, sound, numbers = (content.show(view, 0, "an identity") for view in ("image", "sound", "numbers"))
    assert isinstance(image.content, np.ndarray)
    assert image.content.shape == (4, 6, 3) and image.content[0, 0].tolist() == [250, 0, 0]
    assert isinstance(sound.content, Recording) and (sound.content.rate, len(sound.content.wave)) == (
        8_000,
        8_000,
    )
    assert numbers.content == "an identity" and content.show("numbers", 2, "").content == "0003"
    assert image.source == "sounds/sea.wav row 3" and image.caption == image.name == "a red sea"
    assert "cannot be shown" in str(content.show("image", 1, "").content)
    assert content.show("image", 1, "").source == "rows 1, 2, 3, 4, 5, ..."


def test_a_reader_says_how_its_items_are_shown(index):
    image = np.zeros((2, 3, 3), np.uint8)
    recording = Recording(np.zeros(10, np.float32), 100)
    for shown in ("a text", image, recording):
        content = SampleContent({"own": Plain("npy", shown)}, index)
        assert content.show("own", 0, "an identity").content is shown
    for wrong in (image[0], image.astype(np.float32), replace(recording, wave=np.zeros((2, 5))), 7):
        content = SampleContent({"own": Plain("npy", wrong)}, index)
        with pytest.raises(InvalidValueError, match=r"Plain\.show gave .*; expected a text, an image"):
            content.show("own", 0, "an identity")


def test_a_recording_is_heard_in_the_report_under_its_caption(index):
    sound = SampleContent({"sound": Plain("wav")}, index).show("sound", 0, "")
    example = Example(sound, (Result(sound, False, 0.0),), 0.0)
    page = render(compare([RunReport("heard", samples=[example])]))
    assert page.count("<audio controls") == 2 and 'aria-label="a red sea"' in page
    data = page.split("data:audio/ogg;base64,")[1].split('"')[0]
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert rate == 8_000 and len(wave) == 8_000 and np.abs(wave).max() > 0.5
