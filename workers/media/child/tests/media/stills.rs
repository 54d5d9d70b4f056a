//! Posters: not black, upright, bounded.

use media::{ClockMap, MediaTaskOutput, StillsSpec};

use crate::harness::{Job, Product, Studio, driver, ffprobe, produce, run};

fn spec(at_us: Vec<u64>) -> StillsSpec {
    StillsSpec {
        is_exact: false,
        stream: 0,
        origin_us: 0,
        at_us,
        side_pixels_max: 160,
        quantizer: 4,
        deinterlace: false,
        clock: ClockMap::default(),
    }
}

fn images(product: &Product) -> Vec<(u64, u32, u32, Vec<u8>)> {
    let mut images = Vec::new();
    for output in &product.outputs {
        if let MediaTaskOutput::Image { at_us, width, height, bytes, .. } = output {
            images.push((*at_us, *width, *height, bytes.to_vec()));
        }
    }
    images
}

#[test]
fn black_pictures_are_passed_over() {
    run(async {
        let studio = Studio::new();
        let path = studio.make(
            "black.mp4",
            "-f lavfi -i color=black:size=320x180:rate=25:duration=2 -f lavfi -i testsrc2=size=320x180:rate=25:duration=2 \
             -filter_complex concat=n=2 -c:v libx264",
        );
        let driver = driver().await;
        let product = produce(&driver, &path, Job::Stills(spec(vec![500_000, 3_000_000]))).await.unwrap();
        let images = images(&product);
        assert!((2_000_000..2_600_000).contains(&images[0].0), "{}", images[0].0);
        assert_eq!((images[0].1, images[0].2), (160, 90));
        assert!(images[1].0.abs_diff(3_000_000) <= 40_000, "{}", images[1].0);
        let shown = studio.write("poster.jpg", &images[0].3);
        assert_eq!(ffprobe(&shown, "-show_entries stream=codec_name,width,height"), ["mjpeg,160,90"]);
        // All black: still a picture.
        let dark = studio.make("dark.mp4", "-f lavfi -i color=black:size=320x180:rate=25 -t 1 -c:v libx264");
        let product = produce(&driver, &dark, Job::Stills(spec(vec![0]))).await.unwrap();
        assert_eq!(self::images(&product).len(), 1);
    });
}

#[test]
fn pictures_are_upright_and_past_the_end_the_last_is_taken() {
    run(async {
        let studio = Studio::new();
        let plain = studio.make("plain.mp4", "-f lavfi -i testsrc2=size=320x180:rate=25 -t 1 -c:v libx264");
        let turned =
            studio.make("turned.mp4", &format!("-i {} -c copy -metadata:s:v:0 rotate=90", plain.display()));
        let driver = driver().await;
        let product = produce(&driver, &turned, Job::Stills(spec(vec![60_000_000]))).await.unwrap();
        let images = images(&product);
        assert_eq!((images[0].0, images[0].1, images[0].2), (960_000, 90, 160));
        let still = studio.make("still.png", "-f lavfi -i testsrc2=size=321x181 -frames:v 1");
        let product = produce(&driver, &still, Job::Stills(spec(vec![0]))).await.unwrap();
        let again = produce(&driver, &still, Job::Stills(spec(vec![0]))).await.unwrap();
        assert_eq!(self::images(&product), self::images(&again));
    });
}
