//! Each sampler step by step against diffusers, over predictions that are made up.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod tiny;

use backlot_agent::infer::noise;
use backlot_agent::infer::sampler::{Kind, Prediction, Sampler, Schedule, Spacing};
use tiny::{off, picture};

const TOLERANCE: f32 = 2e-5;

#[test]
fn every_sampler_takes_the_steps_that_diffusers_takes() {
    let made = tiny::made("sd15");
    let names = made.names();
    let cases: Vec<&str> =
        names.iter().filter_map(|name| name.strip_prefix("scheduler.")?.strip_suffix(".samples")).collect();
    assert_eq!(cases.len(), 62);
    for case in cases {
        let &[kind, prediction, spacing, steps] = case.split('.').collect::<Vec<_>>().as_slice() else {
            panic!("{case}")
        };
        let prediction = if prediction == "epsilon" { Prediction::Epsilon } else { Prediction::V };
        let mut schedule = Schedule::stable_diffusion(prediction);
        let (spacing, offset) = match spacing {
            "leading" => (Spacing::Leading, 1),
            "trailing" => (Spacing::Trailing, 0),
            _ => (Spacing::Linspace, 0),
        };
        (schedule.spacing, schedule.offset) = (Some(spacing), offset);
        let steps: usize = steps.parse().unwrap();
        let mut sampler = Sampler::new(Kind::named(kind).unwrap(), &schedule, steps, None).unwrap();
        let (_, moments) = made.get(&format!("scheduler.{case}.timesteps"));
        let (_, inputs) = made.get(&format!("scheduler.{case}.inputs"));
        let (_, samples) = made.get(&format!("scheduler.{case}.samples"));
        assert_eq!(sampler.steps(), moments.len(), "{case}");
        let mut latents: Vec<f32> = noise::normal(5, noise::FIRST, 16).iter().map(|x| x * sampler.start()).collect();
        for index in 0..steps {
            assert!(
                (sampler.moment(index) - moments[index]).abs() < 1e-3,
                "{case}: step {index} at {}",
                sampler.moment(index)
            );
            let scaled: Vec<f32> = latents.iter().map(|x| x * sampler.input_scale(index)).collect();
            assert!(off(&scaled, &inputs[index * 16..][..16]) < TOLERANCE, "{case}: input of step {index}");
            let prediction = picture(&format!("input.output.{index}"), [1, 4, 2, 2]);
            let noise = noise::normal(5, noise::of_step(index), 16);
            let noise = if sampler.wants_noise(index) { &noise[..] } else { &[] };
            sampler.step(index, &prediction, &mut latents, noise);
            let off = off(&latents, &samples[index * 16..][..16]);
            assert!(off < TOLERANCE, "{case}: step {index} is off by {off}");
        }
    }
}

#[test]
fn more_steps_than_there_are_moments_are_refused_with_the_number() {
    let schedule = Schedule::stable_diffusion(Prediction::Epsilon);
    for (name, kind) in Kind::ALL {
        let most = if kind == Kind::Lcm { 50 } else { 1000 };
        assert!(Sampler::new(kind, &schedule, most, None).is_ok(), "{name}");
        for steps in [0, most + 1, usize::MAX] {
            let error = Sampler::new(kind, &schedule, steps, None).unwrap_err();
            assert!(error.contains(&most.to_string()), "{name}: {error}");
        }
        assert_eq!(Kind::named(name), Some(kind));
    }
    assert_eq!(Kind::named("heun"), None);
}

#[test]
fn a_picture_with_noise_on_it_and_no_step_left_to_go_is_the_picture() {
    let schedule = Schedule::stable_diffusion(Prediction::Epsilon);
    let (clean, noise) = (vec![0.5; 8], noise::normal(1, 0, 8));
    for (name, kind) in Kind::ALL {
        let mut sampler = Sampler::new(kind, &schedule, 10, None).unwrap();
        let mut latents = sampler.noisy(9, &clean, &noise);
        // The prediction is exactly the noise that is there, so one step takes all of it away.
        sampler.step(9, &noise, &mut latents, &noise);
        assert!(off(&latents, &clean) < 0.06, "{name}: {latents:?}");
    }
}

#[test]
fn a_sampler_that_goes_on_from_a_checkpoint_ends_where_the_other_one_ends() {
    let schedule = Schedule::stable_diffusion(Prediction::V);
    let prediction = |index: usize| picture(&format!("input.output.{index}"), [1, 4, 2, 2]);
    for (name, kind) in Kind::ALL {
        let noise = |index: usize| noise::normal(3, noise::of_step(index), 16);
        let mut whole = Sampler::new(kind, &schedule, 8, None).unwrap();
        let mut latents = noise::normal(3, 0, 16);
        let mut kept = None;
        for index in 0..8 {
            if index == 5 {
                kept = Some((latents.clone(), whole.memory().map(<[f32]>::to_vec)));
            }
            whole.step(index, &prediction(index), &mut latents, &noise(index));
        }
        let (mut again, memory) = kept.unwrap();
        let mut other = Sampler::new(kind, &schedule, 8, None).unwrap();
        other.remember(memory);
        (5..8).for_each(|index| other.step(index, &prediction(index), &mut again, &noise(index)));
        assert_eq!(again, latents, "{name}");
    }
}
