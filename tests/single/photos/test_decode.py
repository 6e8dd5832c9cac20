"""Every kind of picture is decoded as plain Pillow and NumPy would, and every kind of wreck has its reason."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib

import imagehash
import numpy as np
import pytest
from PIL import Image

from horovod_asl.inference.folder import NO_LABEL, load_folder, load_photos
from horovod_asl.inference.readers import PixelReader
from horovod_asl.photos import decode as decode_module
from horovod_asl.photos.decode import PhotoError, decode_photo, decode_upright
from horovod_asl.photos.hashing import distance, phash
from tests.conftest import draw_photo


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def reference(picture: Image.Image, size: int) -> np.ndarray:
    """The antialiased reference: the whole picture, in RGB, resized by Pillow in one step."""
    return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def png_of_chunks(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG that Pillow cannot write, such as one that announces more than it holds."""
    header = struct.pack(">2I5B", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("size", [16, 48, 100])
def test_lossless_pictures_are_exactly_pillows(kind, size):
    picture = draw_photo(1)
    pixels = decode_photo(encoded(picture, kind), size)
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
    assert np.array_equal(pixels, reference(picture, size))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}])
def test_jpeg_is_within_two_steps_of_the_full_decode(options):
    data = encoded(draw_photo(2, (200, 200)), "JPEG", **options)
    for size in (24, 64, 96, 128, 224):
        assert difference(decode_photo(data, size), reference(Image.open(io.BytesIO(data)), size)) < 2, size


def test_real_jpegs_are_within_two_steps_of_the_full_decode(real_data):
    files = sorted(real_data.glob("asl_alphabet_train/*/*/*.jpg")) + sorted(
        real_data.glob("other_signers/*/*/*.jp*g")
    )
    for file in random.Random(0).sample(files, 60):
        for size in (64, 96):
            mean = difference(decode_photo(file.read_bytes(), size), reference(Image.open(file), size))
            assert mean < 2, (file, size, mean)


@pytest.mark.parametrize("size", [(900, 300), (300, 900), (701, 411), (97, 96), (200, 1200)])
def test_jpegs_that_are_not_square_are_scaled_by_their_longer_side(size):
    data = encoded(draw_photo(3, size), "JPEG", quality=90)
    whole = Image.open(io.BytesIO(data))
    for target in (32, 64):
        scale = target / max(size)
        inner = whole.resize([max(1, round(side * scale)) for side in size], Image.Resampling.BILINEAR)
        assert difference(decode_photo(data, target), decode_photo(encoded(inner), target)) < 2, target


def plain(picture: Image.Image, **options: object) -> bytes:
    return encoded(picture, "JPEG", quality=90, **options)


def test_simplejpeg_decodes_what_is_plain_and_leaves_the_rest_to_pillow(monkeypatch):
    picture, exif = draw_photo(2, (200, 200)), Image.Exif()
    exif[0x0112] = 6
    with_care = [
        plain(picture, exif=exif),
        plain(picture.convert("CMYK")),
        plain(picture, icc_profile=b"x" * 99),
    ]
    with_care += [
        plain(picture, keep_rgb=True),
        encoded(picture, "MPO", save_all=True, append_images=[picture]),
    ]
    no_care = [plain(picture), plain(picture, progressive=True), plain(picture.convert("L"))]
    both = [decode_photo(data, 64) for data in no_care]
    opened: list[bytes] = []
    by_pillow = decode_module._any_picture
    monkeypatch.setattr(
        decode_module, "_any_picture", lambda data, *rest: opened.append(data) or by_pillow(data, *rest)
    )
    for data in (*no_care, *with_care):
        decode_photo(data, 64)
    assert opened == with_care
    monkeypatch.setattr(decode_module, "_plain_jpeg", lambda *_: None)
    for data, pixels in zip(no_care, both, strict=True):
        assert difference(decode_photo(data, 64), pixels) < 1


def test_a_jpeg_cut_or_damaged_anywhere_is_what_it_is_to_pillow(monkeypatch):
    data, draw = plain(draw_photo(9, (200, 200))), random.Random(0)
    wrecks = [data[: draw.randrange(len(data) - 2)] for _ in range(40)]
    for _ in range(40):
        wreck = bytearray(data)
        wreck[draw.randrange(150, len(data))] = draw.randrange(256)
        wrecks.append(bytes(wreck))

    def outcome(wreck: bytes) -> str:
        try:
            decode_photo(wreck, 64)
        except PhotoError as error:
            return str(error)
        return ""

    ours = [outcome(wreck) for wreck in wrecks]
    monkeypatch.setattr(decode_module, "_plain_jpeg", lambda *_: None)
    assert ours == [outcome(wreck) for wreck in wrecks]
    assert all(ours[:40])


def test_grey_palette_and_one_bit():
    picture = draw_photo(3)
    for mode in ("L", "P", "1"):
        converted = picture.convert(mode)
        assert np.array_equal(decode_photo(encoded(converted), 48), np.asarray(converted.convert("RGB")))


def test_transparency_lies_over_white():
    rgba = draw_photo(4).convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    alpha = np.asarray(rgba)[:, :, 3:].astype(float) / 255
    expected = np.asarray(rgba)[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode_photo(encoded(rgba), 48) - expected).max() <= 1
    grey = decode_photo(encoded(Image.new("LA", (8, 8), (0, 0))), 8)
    assert (grey == 255).all()
    palette = draw_photo(4).quantize(8)
    pixels = decode_photo(encoded(palette, transparency=3), 48)
    assert (pixels[np.asarray(palette) == 3] == 255).all()


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        pixels = decode_photo(encoded(Image.fromarray(values), kind), 64)
        assert np.array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2)), kind


def test_sixteen_bit_colour_keeps_its_range():
    rows = [b"\0" + struct.pack(">12H", *[65535, 32768, 0] * 4)] * 4
    data = png_of_chunks(4, 4, 16, 2, b"".join(rows))
    assert np.array_equal(np.unique(decode_photo(data, 4).reshape(-1, 3), axis=0), [[255, 128, 0]])


def test_floats_are_shares_or_bytes():
    shares = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert (decode_photo(encoded(shares, "TIFF"), 8) == 128).all()
    assert (decode_photo(encoded(Image.fromarray(np.full((8, 8), 200, np.float32)), "TIFF"), 8) == 200).all()


def test_cmyk_as_plain_tiff_and_as_adobes_inverted_jpeg():
    picture = draw_photo(5, (64, 64))
    cmyk = picture.convert("CMYK")
    assert difference(decode_photo(encoded(cmyk, "TIFF"), 64), np.asarray(picture)) < 1
    data = encoded(cmyk, "JPEG", quality=95)
    assert b"Adobe" in data
    assert difference(decode_photo(data, 64), np.asarray(picture)) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = draw_photo(6, (64, 48))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, [])
    stored = upright
    for step in undo:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "JPEG", exif=exif, quality=95, subsampling=0)
    assert difference(decode_photo(data, 64), decode_photo(encoded(upright), 64)) < 3


def test_an_animation_gives_its_first_frame():
    first, second = draw_photo(7).quantize(), draw_photo(8).quantize()
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert np.array_equal(decode_photo(data, 48), np.asarray(first.convert("RGB")))
    webp = encoded(draw_photo(7), "WEBP", save_all=True, append_images=[draw_photo(8)], lossless=True)
    assert np.array_equal(decode_photo(webp, 48), np.asarray(draw_photo(7)))


def test_a_picture_that_is_not_square_is_whole_in_its_shape_with_its_border_repeated():
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("red", (0, 0, 10, 20))
    pixels = decode_photo(encoded(picture), 40)
    assert np.array_equal(pixels[10:30], np.asarray(picture))
    assert (pixels[:10] == pixels[10]).all()
    assert (pixels[30:] == pixels[29]).all()
    tall = decode_photo(encoded(picture.transpose(Image.Transpose.ROTATE_90)), 33)
    assert tall.shape == (33, 33, 3)
    assert decode_photo(encoded(Image.new("RGB", (500, 1), "red")), 16).shape == (16, 16, 3)


def wrecks() -> dict[str, tuple[bytes, str]]:
    jpeg = encoded(draw_photo(9, (200, 200)), "JPEG")
    heic = b"\0\0\0\x18ftypheic" + bytes(200)
    wrecked = {f"truncated {kind}": encoded(draw_photo(9), kind) for kind in ("PNG", "GIF", "BMP", "TIFF")}
    return {
        "empty": (b"", "empty file"),
        "text": (b"these are no pixels" * 20, "^not a picture$"),
        "heic": (heic, "damaged: no readable HEIC"),
        "video": (heic.replace(b"heic", b"isom"), "^a video: `prepare` takes folders of videos"),
        "html": (b"<html>404 not found</html>", "not a picture"),
        "half a jpeg": (jpeg[: len(jpeg) // 2], "truncated"),
        "a jpeg without its last line": (jpeg[:-60], "truncated"),
        "a jpeg's header": (jpeg[:150], "not a picture|truncated"),
        "huge": (png_of_chunks(9000, 9000, 8, 2, b""), "too large: 81 megapixels, the limit is 64"),
        "announces more than it holds": (png_of_chunks(90, 90, 8, 2, b"\0"), "truncated|damaged"),
        "a bomb": (png_of_chunks(20000, 20000, 8, 2, b""), "too large: 400 megapixels, the limit is 64"),
        **{name: (data[: len(data) * 2 // 3], "truncated|damaged") for name, data in wrecked.items()},
        "truncated WEBP": (encoded(draw_photo(9), "WEBP")[:-40], "truncated|damaged|not a picture"),
    }


@pytest.mark.parametrize("name", wrecks())
def test_a_wreck_has_its_reason(name):
    data, reason = wrecks()[name]
    with pytest.raises(PhotoError, match=reason) as caught:
        decode_photo(data, 64)
    assert len(str(caught.value)) < 160
    assert "\n" not in str(caught.value)


def test_noise_after_any_header_never_escapes_as_another_error():
    noise = np.random.default_rng(0).bytes(3000)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA"):
        data = encoded(draw_photo(1), kind)
        for keep in (20, 60, 150, 400):
            with contextlib.suppress(PhotoError):
                assert decode_photo(data[:keep] + noise, 32).shape == (32, 32, 3)


def test_the_limit_in_megapixels_is_the_callers():
    data = encoded(Image.new("L", (1100, 1000)))
    assert decode_photo(data, 8, max_megapixels=1.1).shape == (8, 8, 3)
    with pytest.raises(PhotoError, match=r"limit is 1$"):
        decode_photo(data, 8, max_megapixels=1)


def test_our_hash_is_imagehash_phash():
    for size in (31, 32, 64, 100):
        pictures = np.stack([np.asarray(draw_photo(seed, (size, size))) for seed in range(40)])
        ours = phash(pictures)
        theirs = [int(str(imagehash.phash(Image.fromarray(picture))), 16) for picture in pictures]
        assert ours.tolist() == theirs
    assert phash(pictures[:0]).shape == (0,)


def test_hash_distance_counts_bits():
    a, b = np.array([0, 0b1011], np.uint64), np.array([0b1, 2**64 - 1], np.uint64)
    assert distance(a, b).tolist() == [[1, 64], [2, 61]]


def test_a_folder_and_a_list_are_decoded_alike_and_say_what_they_left_out(frames, tmp_path):
    loaded = load_folder(frames, reader=PixelReader(32), workers=2)
    assert loaded.images.shape == (232, 32, 32, 3)
    assert np.bincount(loaded.labels).tolist() == [8] * 29
    some = loaded.paths[10]
    (tmp_path / "wreck.jpg").write_bytes(b"x" * 100)
    listed = load_photos([some, tmp_path / "wreck.jpg", tmp_path / "nowhere.jpg"], reader=PixelReader(32))
    assert listed.paths == [some]
    assert listed.labels.tolist() == [NO_LABEL]
    assert np.array_equal(listed.images[0], loaded.images[10])
    assert [reason for _, reason in listed.problems] == [
        "not a picture",
        "cannot be read: No such file or directory",
    ]
    assert load_photos([frames / "A"], reader=PixelReader(32)).paths == sorted(
        str(p) for p in (frames / "A").iterdir()
    )


@pytest.mark.parametrize(("size", "most", "expected"), [((60, 40), 100, (60, 40)), ((60, 40), 30, (30, 20))])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_upright_picture_keeps_its_shape_and_is_at_most_so_large(kind, size, most, expected):
    picture = draw_photo(5, size)
    data = encoded(picture, kind)
    decoded = Image.open(io.BytesIO(data)).convert("RGB").resize(expected, Image.Resampling.BILINEAR)
    pixels = decode_upright(data, most)
    assert pixels.shape == (expected[1], expected[0], 3)
    assert difference(pixels, np.asarray(decoded)) <= (0 if kind == "PNG" else 2)


def test_an_upright_picture_is_turned_and_refused_as_others_are():
    picture = draw_photo(6, (60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_upright(encoded(picture, "JPEG", exif=exif, quality=95), 100)
    assert turned.shape == (60, 40, 3)
    assert difference(turned, np.asarray(picture.rotate(-90, expand=True))) < 4
    with pytest.raises(PhotoError, match=r"too large: 1\.2 megapixels, the limit is 1"):
        decode_upright(png_of_chunks(1200, 1000, 8, 2, b""), 100, max_megapixels=1)
    with pytest.raises(PhotoError, match="empty"):
        decode_upright(b"", 100)
