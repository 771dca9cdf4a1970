//! Pictures: decoded here, under limits, shrunk, and written as JPEG.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GenericImageView, ImageDecoder, ImageReader, Limits, Rgb, RgbImage};

use backlot_wire::{MediaFacts, MediaKind};

use super::{Made, MediaError};

/// Longest side that is decoded.
const SIDE_MAX: u32 = 20_000;
/// Most memory that decoding may take.
const DECODED_BYTES_MAX: u64 = 256 << 20;
/// JPEG's quality, of 100.
const QUALITY: u8 = 82;
/// What is seen through transparent parts.
const BACKGROUND: f32 = 255.0;

/// Facts of a picture and, where `side` says how large, a small one.
pub(super) fn look(bytes: &[u8], side: Option<u32>) -> Result<Made, MediaError> {
    let unreadable = |error: &dyn std::fmt::Display| MediaError::Unreadable(error.to_string());
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| unreadable(&error))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let codec = reader.format().and_then(|format| format.extensions_str().first()).map(|name| (*name).to_owned());
    let mut decoder = reader.into_decoder().map_err(|error| unreadable(&error))?;
    let orientation = decoder.orientation().map_err(|error| unreadable(&error))?;
    // A picture of which only the beginning is there has facts and yet cannot be shown: it is decoded either way.
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| unreadable(&error))?;
    picture.apply_orientation(orientation);
    let (width, height) = picture.dimensions();
    let facts =
        MediaFacts { kind: MediaKind::Image, width: Some(width), height: Some(height), codec, ..MediaFacts::default() };
    let picture = side.map(|side| small(&picture, side)).transpose()?;
    Ok(Made { facts, picture })
}

fn small(picture: &DynamicImage, side: u32) -> Result<Vec<u8>, MediaError> {
    let (width, height) = picture.dimensions();
    // Never larger than it is.
    let side = side.min(width.max(height)).max(1);
    let shrunk = picture.thumbnail(side, side);
    let mut jpeg = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
    let flat = if shrunk.color().has_alpha() { flatten(&shrunk) } else { shrunk.to_rgb8() };
    encoder.encode_image(&flat).map_err(|error| MediaError::Fault(error.to_string()))?;
    Ok(jpeg)
}

/// JPEG knows no transparency.
fn flatten(picture: &DynamicImage) -> RgbImage {
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0;
        let share = f32::from(alpha) / 255.0;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
        let over = |colour: u8| (f32::from(colour) * share + BACKGROUND * (1.0 - share)).round() as u8;
        Rgb([over(red), over(green), over(blue)])
    })
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgba, RgbaImage};

    use super::*;

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_picture_is_shrunk_to_its_longer_side_and_never_grows() {
        let wide = DynamicImage::ImageRgb8(RgbImage::from_pixel(640, 360, Rgb([200, 30, 30])));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let made = look(&encoded(&wide, format), Some(160)).unwrap();
            assert_eq!((made.facts.width, made.facts.height), (Some(640), Some(360)), "{format:?}");
            let small = image::load_from_memory(&made.picture.unwrap()).unwrap();
            assert_eq!(small.dimensions(), (160, 90));
            let Rgb([red, green, _]) = *small.to_rgb8().get_pixel(80, 45);
            assert!(red > 180 && green < 60, "{format:?}: {red} {green}");
        }
        let made = look(&encoded(&wide, ImageFormat::Png), Some(1280)).unwrap();
        assert_eq!(image::load_from_memory(&made.picture.unwrap()).unwrap().dimensions(), (640, 360));
        assert!(look(&encoded(&wide, ImageFormat::Png), None).unwrap().picture.is_none());
    }

    #[test]
    fn transparent_parts_are_white() {
        let clear = DynamicImage::ImageRgba8(RgbaImage::from_pixel(20, 20, Rgba([0, 0, 0, 0])));
        let made = look(&encoded(&clear, ImageFormat::Png), Some(160)).unwrap();
        let shown = image::load_from_memory(&made.picture.unwrap()).unwrap().to_rgb8();
        assert!(shown.get_pixel(10, 10).0.iter().all(|channel| *channel > 250));
    }

    #[test]
    fn what_is_no_picture_or_is_cut_off_or_claims_to_be_huge_is_unreadable() {
        let whole = encoded(
            &DynamicImage::ImageRgb8(RgbImage::from_fn(300, 300, |x, y| Rgb([(x * y % 251) as u8, 1, 2]))),
            ImageFormat::Png,
        );
        let mut huge = whole.clone();
        huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]); // IHDR's sides; its checksum is wrong too
        for bad in [&b""[..], b"no picture", &whole[..whole.len() / 2], &huge] {
            assert!(matches!(look(bad, Some(160)), Err(MediaError::Unreadable(_))), "{} bytes", bad.len());
        }
    }
}
