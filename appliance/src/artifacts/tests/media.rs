//! Pictures and facts over the real store.

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use super::*;
use crate::artifacts::media::{Library, Media, MediaError, sweep};

fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(RgbImage::from_pixel(400, 200, Rgb(colour)))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn media(store: &Store) -> Media {
    Media::build(Library::Own(store.artifacts.clone()), &store.dir, ArtifactConfig::default()).unwrap()
}

fn kept(store: &Store) -> u64 {
    store.artifacts.bucket(crate::artifacts::media::BUCKET).map_or(0, |bucket| bucket.objects)
}

#[tokio::test]
async fn a_picture_is_made_once_for_each_size_and_anew_for_what_is_put_over_it() {
    let store = Store::new().await;
    let media = media(&store);
    store.put("shot 42/é.png", &png([250, 0, 0])).await;
    let red = media.picture(BUCKET, "shot 42/é.png", 100).await.unwrap();
    assert_eq!(kept(&store), 2, "a picture and the facts");
    assert_eq!(media.picture(BUCKET, "shot 42/é.png", 160).await.unwrap(), red, "the next larger of the usual sizes");
    assert_eq!(kept(&store), 2);
    let facts = media.facts(BUCKET, "shot 42/é.png").await.unwrap();
    assert_eq!((facts.width, facts.height), (Some(400), Some(200)));

    store.put("shot 42/é.png", &png([0, 0, 250])).await;
    let blue = media.picture(BUCKET, "shot 42/é.png", 160).await.unwrap();
    let pixel = image::load_from_memory(&blue).unwrap().to_rgb8().get_pixel(50, 50).0;
    assert!(pixel[2] > 200 && pixel[0] < 50, "{pixel:?}");
    assert_eq!(sweep(&store.artifacts).await.unwrap(), 2, "those of what was put over");
    assert_eq!(media.picture(BUCKET, "shot 42/é.png", 160).await.unwrap(), blue);
    store.delete("shot 42/é.png").await;
    assert_eq!(sweep(&store.artifacts).await.unwrap(), 2);
    assert_eq!(kept(&store), 0);
    let gone = media.picture(BUCKET, "shot 42/é.png", 160).await;
    assert!(matches!(gone, Err(MediaError::Artifact(_))), "{gone:?}");
}

#[tokio::test]
async fn what_is_no_picture_is_told_from_what_cannot_be_read() {
    let store = Store::new().await;
    let media = media(&store);
    store.put("weights.bin", b"0").await;
    store.put("torn.png", &png([1, 2, 3])[..100]).await;
    assert!(matches!(media.picture(BUCKET, "weights.bin", 160).await, Err(MediaError::NotMedia)));
    for _ in 0..2 {
        assert!(matches!(media.picture(BUCKET, "torn.png", 160).await, Err(MediaError::Unreadable(_))));
    }
    assert_eq!(kept(&store), 0);
}

#[tokio::test]
async fn many_who_ask_at_once_get_the_same_picture() {
    let store = Store::new().await;
    let media = media(&store);
    store.put("a.png", &png([9, 99, 9])).await;
    let asked = (0..20).map(|_| media.picture(BUCKET, "a.png", 320));
    let pictures: Vec<_> = futures::future::join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert!(pictures.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(kept(&store), 2);
}
