//! Light: what the curves of high dynamic range mean, and how it becomes a picture for an ordinary screen.
//!
//! PQ (SMPTE ST 2084) gives the light of a screen in nits; HLG (ARIB STD-B67) that of the scene, which BT.2100's OOTF
//! turns into that of a screen of 1000 nits. The brightest channel of a pixel is bent by the EETF of BT.2390 from the
//! peak of the source to the white of the screen, all three are scaled alike (so that hues stay), brought from BT.2020's
//! primaries to BT.709's, cut to what the screen has, and encoded for it.

use rayon::prelude::*;

use super::Frame;

/// The curve of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    Pq,
    Hlg,
}

/// The curve of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// A power of 2.4: what video is graded on.
    Bt1886,
    Srgb,
}

/// From high dynamic range and BT.2020 to BT.709.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ToneMap {
    pub curve: Curve,
    pub display: Display,
    /// Brightest light of the source.
    pub peak_nits: f32,
    /// What becomes white.
    pub white_nits: f32,
}

impl Default for ToneMap {
    /// BT.2408: 1000 nits mastered, white at 203.
    fn default() -> Self {
        Self { curve: Curve::Pq, display: Display::Bt1886, peak_nits: 1000.0, white_nits: 203.0 }
    }
}

const M1: f32 = 0.159_301_76;
const M2: f32 = 78.84375;
const C1: f32 = 0.835_937_5;
const C2: f32 = 18.851_563;
const C3: f32 = 18.6875;
const PQ_NITS: f32 = 10_000.0;
/// Of a screen that shows HLG.
const HLG_NITS: f32 = 1000.0;
const HLG_GAMMA: f32 = 1.2;

/// BT.2020's primaries in BT.709's.
const TO_709: [[f32; 3]; 3] =
    [[1.660_491, -0.587_641, -0.072_85], [-0.124_55, 1.132_9, -0.008_349], [-0.018_151, -0.100_579, 1.118_73]];

fn nits_of_pq(value: f32) -> f32 {
    let power = value.clamp(0.0, 1.0).powf(1.0 / M2);
    PQ_NITS * ((power - C1).max(0.0) / (C2 - C3 * power)).powf(1.0 / M1)
}

fn pq_of_nits(nits: f32) -> f32 {
    let power = (nits / PQ_NITS).clamp(0.0, 1.0).powf(M1);
    ((C1 + C2 * power) / (1.0 + C3 * power)).powf(M2)
}

/// Light of the scene, 0 to 1.
fn scene_of_hlg(value: f32) -> f32 {
    const A: f32 = 0.178_832_77;
    const B: f32 = 1.0 - 4.0 * A;
    const C: f32 = 0.559_910_7;
    let value = value.clamp(0.0, 1.0);
    if value <= 0.5 { value * value / 3.0 } else { (((value - C) / A).exp() + B) / 12.0 }
}

impl ToneMap {
    pub(super) fn problem(&self) -> Option<String> {
        let Self { peak_nits, white_nits, .. } = self;
        if !(10.0..=1000.0).contains(white_nits) {
            return Some(format!("white of {white_nits} nits is not 10 to 1000"));
        }
        if !(*white_nits..=PQ_NITS).contains(peak_nits) {
            return Some(format!("a peak of {peak_nits} nits is not {white_nits} to {PQ_NITS}"));
        }
        None
    }

    /// Numbers of BT.2390's bend: PQ of the source's peak, the screen's white as a share of it, and where it begins.
    pub(super) fn bend(&self) -> [f32; 3] {
        let peak = pq_of_nits(self.peak_nits);
        let most = pq_of_nits(self.white_nits) / peak;
        [peak, most, 1.5 * most - 0.5]
    }

    pub(super) fn apply(&self, frame: &mut Frame) {
        let bend = self.bend();
        frame.data.par_iter_mut().for_each(|pixel| {
            let [r, g, b, a] = *pixel;
            let [r, g, b] = self.pixel([r, g, b], bend);
            *pixel = [r, g, b, a];
        });
    }

    fn pixel(&self, rgb: [f32; 3], [peak, most, knee]: [f32; 3]) -> [f32; 3] {
        let light = match self.curve {
            Curve::Pq => rgb.map(nits_of_pq),
            Curve::Hlg => {
                let scene = rgb.map(scene_of_hlg);
                let luma = 0.2627 * scene[0] + 0.678 * scene[1] + 0.0593 * scene[2];
                let gain = HLG_NITS * luma.max(1e-6).powf(HLG_GAMMA - 1.0);
                scene.map(|value| value * gain)
            }
        };
        let brightest = light[0].max(light[1]).max(light[2]);
        let given = (pq_of_nits(brightest) / peak).min(1.0);
        let bent = if given < knee {
            given
        } else {
            let t = (given - knee) / (1.0 - knee);
            let (t2, t3) = (t * t, t * t * t);
            (2.0 * t3 - 3.0 * t2 + 1.0) * knee + (t3 - 2.0 * t2 + t) * (1.0 - knee) + (3.0 * t2 - 2.0 * t3) * most
        };
        let scale = nits_of_pq(bent * peak) / brightest.max(1e-6) / self.white_nits;
        TO_709.map(|row| {
            let value = (row[0] * light[0] + row[1] * light[1] + row[2] * light[2]) * scale;
            self.display.encode(value.clamp(0.0, 1.0))
        })
    }
}

impl Display {
    fn encode(self, light: f32) -> f32 {
        match self {
            Self::Bt1886 => light.powf(1.0 / 2.4),
            Self::Srgb if light <= 0.003_130_8 => 12.92 * light,
            Self::Srgb => 1.055 * light.powf(1.0 / 2.4) - 0.055,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curves_go_through_the_points_that_their_standards_name() {
        for (nits, value) in [(0.0, 0.0), (100.0, 0.508), (203.0, 0.581), (1000.0, 0.752), (10_000.0, 1.0)] {
            assert!((pq_of_nits(nits) - value).abs() < 1e-3, "{nits}: {}", pq_of_nits(nits));
            assert!((nits_of_pq(pq_of_nits(nits)) - nits).abs() <= nits * 2e-4);
        }
        for (value, scene) in [(0.0, 0.0), (0.5, 1.0 / 12.0), (0.75, 0.26496), (1.0, 1.0)] {
            assert!((scene_of_hlg(value) - scene).abs() < 1e-3, "{value}: {}", scene_of_hlg(value));
        }
    }

    #[test]
    fn dark_greys_keep_their_light_and_the_peak_becomes_white() {
        let tone = ToneMap::default();
        let grey = |nits: f32| {
            let value = pq_of_nits(nits);
            let made = tone.pixel([value; 3], tone.bend());
            assert!((made[0] - made[1]).abs() < 1e-3 && (made[1] - made[2]).abs() < 1e-3, "{made:?}");
            made[1].powf(2.4) * tone.white_nits
        };
        assert!((grey(5.0) - 5.0).abs() < 0.1);
        assert!((grey(1000.0) - 203.0).abs() < 0.5);
        let levels: Vec<f32> = (1..40).map(|i| grey(25.0 * i as f32)).collect();
        assert!(levels.is_sorted(), "brighter stays brighter: {levels:?}");
        // 75 % of HLG is its reference white: about 203 nits, which lands below white.
        let hlg = ToneMap { curve: Curve::Hlg, ..tone };
        let white = hlg.pixel([0.75; 3], hlg.bend())[1];
        assert!((0.7..1.0).contains(&white), "{white}");
    }

    #[test]
    fn numbers_out_of_bounds_are_named() {
        let tone = ToneMap { peak_nits: 100.0, ..ToneMap::default() };
        assert!(tone.problem().unwrap().contains("peak of 100"));
        assert!(ToneMap { white_nits: f32::NAN, ..ToneMap::default() }.problem().is_some());
    }
}
