//! Still images: PNG, JPEG and WebP in, PNG out.
//!
//! A file is judged by its header before a pixel is decoded: sides, pixels and bytes have bounds, and decoders
//! allocate within a limit, so that neither 100,000 × 100,000 pixels nor a small file that unfolds to gigabytes gets
//! far. Pictures that move are refused, since a still of them would be a silent loss. The alpha channel, the colour
//! profile and the orientation that a camera noted are kept.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::{CompressionType, FilterType, PngDecoder, PngEncoder};
use image::codecs::webp::WebPDecoder;
use image::imageops;
use image::{DynamicImage, ExtendedColorType, GrayImage, ImageDecoder, ImageEncoder, ImageError, ImageFormat, Limits};

use super::{Rgb, disk};
use crate::infer::Failure;

/// Largest file that is read.
pub const FILE_BYTES_MAX: u64 = 256 << 20;
/// Longest side of an input.
pub const SIDE_MAX: u32 = 32_768;
/// Most pixels of an input, and of an output.
pub const PIXELS_MAX: u64 = 64 << 20;
pub const OUTPUT_PIXELS_MAX: u64 = 256 << 20;

/// A decoded image.
#[derive(Debug)]
pub struct Still {
    pub colour: Rgb,
    /// One byte a pixel, where the file has an alpha channel.
    pub alpha: Option<Vec<u8>>,
    /// ICC profile.
    pub profile: Option<Vec<u8>>,
}

/// A picture with all the bits that its file has, up to sixteen.
#[derive(Debug)]
pub struct Deep {
    pub width: usize,
    pub height: usize,
    /// Red, green, blue, alpha of each pixel.
    pub rgba: Vec<u16>,
    /// ICC profile.
    pub profile: Option<Vec<u8>>,
}

/// Decodes the image at `path`, which is to become `scale` times as large.
///
/// # Errors
/// Permanent, with what is wrong, unless the disk failed.
pub fn decode(path: &Path, scale: u32) -> Result<Still, Failure> {
    let (image, profile) = open(path, scale)?;
    let alpha = image.color().has_alpha().then(|| {
        let rgba = image.to_rgba8();
        rgba.pixels().map(|pixel| pixel.0[3]).collect()
    });
    let rgb = image.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Ok(Still { colour: Rgb { width, height, data: rgb.into_raw() }, alpha, profile })
}

/// Decodes the image at `path` without taking bits from it.
///
/// # Errors
/// Permanent, with what is wrong, unless the disk failed.
pub fn decode_deep(path: &Path) -> Result<Deep, Failure> {
    let (image, profile) = open(path, 1)?;
    let rgba = image.into_rgba16();
    Ok(Deep { width: rgba.width() as usize, height: rgba.height() as usize, rgba: rgba.into_raw(), profile })
}

/// The picture, turned as its file asks for, and the profile of its colours.
fn open(path: &Path, scale: u32) -> Result<(DynamicImage, Option<Vec<u8>>), Failure> {
    let open = |error: &std::io::Error| disk("read", path, error);
    let mut file = File::open(path).map_err(|error| open(&error))?;
    let bytes = file.metadata().map_err(|error| open(&error))?.len();
    if bytes == 0 {
        return Err(Failure::permanent("the image is empty (0 bytes)"));
    }
    if bytes > FILE_BYTES_MAX {
        return Err(Failure::permanent(format!("the image file has {bytes} bytes, more than {FILE_BYTES_MAX}"))
            .with("bytes", bytes));
    }
    let mut head = [0; 64];
    let seen = file.read(&mut head).map_err(|error| open(&error))?;
    file.seek(SeekFrom::Start(0)).map_err(|error| open(&error))?;
    let reader = BufReader::new(file);
    match image::guess_format(&head[..seen]) {
        Ok(ImageFormat::Png) => {
            let decoder = PngDecoder::with_limits(reader, limits()).map_err(|error| broken("PNG", &error))?;
            if decoder.is_apng().map_err(|error| broken("PNG", &error))? {
                return Err(Failure::permanent("the PNG is animated; only stills are worked on"));
            }
            decode_with(decoder, "PNG", scale)
        }
        Ok(ImageFormat::Jpeg) => {
            decode_with(JpegDecoder::new(reader).map_err(|error| broken("JPEG", &error))?, "JPEG", scale)
        }
        Ok(ImageFormat::WebP) => {
            let decoder = WebPDecoder::new(reader).map_err(|error| broken("WebP", &error))?;
            if decoder.has_animation() {
                return Err(Failure::permanent("the WebP is animated; only stills are worked on"));
            }
            decode_with(decoder, "WebP", scale)
        }
        _ => Err(Failure::permanent("the input is no PNG, JPEG or WebP image")),
    }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    // The decoded picture in its largest form (16 bits, four channels), and as much again to work in.
    limits.max_alloc = Some(PIXELS_MAX * 8 * 2);
    limits
}

fn broken(kind: &str, error: &ImageError) -> Failure {
    Failure::permanent(format!("the {kind} image is broken or too large: {error}"))
}

fn decode_with<D: ImageDecoder>(
    mut decoder: D,
    kind: &str,
    scale: u32,
) -> Result<(DynamicImage, Option<Vec<u8>>), Failure> {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let made = pixels * u64::from(scale) * u64::from(scale);
    if width == 0 || height == 0 || width > SIDE_MAX || height > SIDE_MAX || pixels > PIXELS_MAX {
        return Err(Failure::permanent(format!(
            "the image has {width} x {height} pixels; a side of {SIDE_MAX} and {PIXELS_MAX} pixels are the most"
        ))
        .with("width", width)
        .with("height", height));
    }
    if made > OUTPUT_PIXELS_MAX {
        return Err(Failure::permanent(format!(
            "{width} x {height} pixels times {scale} are {made} pixels; {OUTPUT_PIXELS_MAX} are the most"
        )));
    }
    decoder.set_limits(limits()).map_err(|error| broken(kind, &error))?;
    let orientation = decoder.orientation().map_err(|error| broken(kind, &error))?;
    let profile = decoder.icc_profile().map_err(|error| broken(kind, &error))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| broken(kind, &error))?;
    image.apply_orientation(orientation);
    // A profile describes the file's own channels: that of a grey image does not suit the RGB we make of it.
    let profile = profile.filter(|_| image.color().has_color());
    Ok((image, profile))
}

/// Alpha of a picture `scale` times as large, by Catmull-Rom: a mask is no picture that a model has learnt.
///
/// # Errors
/// Permanent, when `alpha` is not one byte a pixel.
pub fn enlarge_alpha(alpha: Vec<u8>, colour: &Rgb, scale: u32) -> Result<Vec<u8>, Failure> {
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (width, height) = (side(colour.width), side(colour.height));
    let mask = GrayImage::from_raw(width, height, alpha)
        .ok_or_else(|| Failure::permanent("the alpha channel is not as large as the image"))?;
    let made = imageops::resize(&mask, width * scale, height * scale, imageops::FilterType::CatmullRom);
    Ok(made.into_raw())
}

/// Writes a PNG.
///
/// # Errors
/// Transient: what can fail here is the disk.
pub fn encode(path: &Path, colour: &Rgb, alpha: Option<&[u8]>, profile: Option<Vec<u8>>) -> Result<(), Failure> {
    let write = |error: std::io::Error| disk("write", path, &error);
    let mut out = BufWriter::new(File::create_new(path).map_err(write)?);
    let mut encoder = PngEncoder::new_with_quality(&mut out, CompressionType::Fast, FilterType::Adaptive);
    if let Some(profile) = profile {
        encoder.set_icc_profile(profile).map_err(|error| write(std::io::Error::other(error)))?;
    }
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (width, height) = (side(colour.width), side(colour.height));
    let written = match alpha {
        None => encoder.write_image(&colour.data, width, height, ExtendedColorType::Rgb8),
        Some(alpha) => {
            let pixels = colour.data.chunks_exact(3).zip(alpha);
            let rgba: Vec<u8> = pixels.flat_map(|(rgb, alpha)| [rgb[0], rgb[1], rgb[2], *alpha]).collect();
            encoder.write_image(&rgba, width, height, ExtendedColorType::Rgba8)
        }
    };
    written.map_err(|error| match error {
        ImageError::IoError(error) => write(error),
        other => write(std::io::Error::other(other)),
    })?;
    out.flush().map_err(write)
}
