//! A host with tiny models, for the tests of whole jobs.

#![allow(dead_code, reason = "each test file that includes this uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use backlot_agent::infer::choice::{Precision, Wish};
use backlot_agent::infer::{Context, Engine, EngineOptions, Failure, FailureClass, Made, Report, Task, run};
use serde_json::Value;

use crate::tiny;

/// A host with some of the tiny models.
pub(crate) struct Host {
    /// The type of the jobs.
    pub(crate) kind: &'static str,
    pub(crate) engine: Engine,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cancel: AtomicBool,
    pub(crate) runs: usize,
    /// A checkpoint that the next run finds.
    pub(crate) left: Option<Vec<u8>>,
}

impl Host {
    pub(crate) fn new(forms: &[&str]) -> Self {
        Self::on(Wish::Cpu, Precision::Auto, forms)
    }

    pub(crate) fn on(wish: Wish, precision: Precision, forms: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let models = dir.path().join("models");
        std::fs::create_dir(&models).unwrap();
        for form in forms {
            tiny::write_folder(form, &models.join(form));
        }
        let engine = Engine::new(EngineOptions { models_dir: models, threads: 2, executor: wish, precision, gpu: 0 });
        Self { kind: "image.generate", engine, dir, cancel: AtomicBool::new(false), runs: 0, left: None }
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    pub(crate) fn heard(
        &mut self,
        parameters: Value,
        inputs: &[&Path],
        report: &mut (dyn FnMut(Report, &AtomicBool) + Send),
    ) -> Result<Vec<Made>, Failure> {
        self.runs += 1;
        let output_dir = self.dir.path().join(format!("out-{}", self.runs));
        std::fs::create_dir(&output_dir).unwrap();
        if let Some(left) = self.left.take() {
            std::fs::write(output_dir.join("checkpoint"), left).unwrap();
        }
        let Value::Object(parameters) = parameters else { panic!("an object") };
        let inputs = inputs.iter().map(|path| (*path).to_owned()).collect();
        let task = Task { kind: self.kind.into(), parameters, inputs, output_dir };
        let cancel = &self.cancel;
        let mut report = |said| report(said, cancel);
        run(&task, &mut Context { engine: &mut self.engine, cancel, report: &mut report })
    }

    pub(crate) fn run(&mut self, parameters: Value, inputs: &[&Path]) -> Result<Vec<Made>, Failure> {
        self.heard(parameters, inputs, &mut |_, _| {})
    }

    pub(crate) fn refused(&mut self, parameters: Value, inputs: &[&Path]) -> String {
        let failure = self.run(parameters, inputs).unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent, "{failure}");
        failure.message
    }
}

pub(crate) fn pixels(path: &Path) -> Vec<f32> {
    image::open(path).unwrap().to_rgb8().into_raw().into_iter().map(|value| f32::from(value) / 255.0).collect()
}

/// The picture and the mask that `make.py` gave the pipelines.
pub(crate) fn inputs(dir: &Path) -> (PathBuf, PathBuf) {
    let (picture, mask) = (dir.join("picture.png"), dir.join("mask.png"));
    let values = tiny::picture("input.picture", [1, 3, 64, 64]);
    let bytes = values.iter().map(|value| ((value + 1.0) / 2.0 * 255.0).round_ties_even() as u8).collect();
    image::RgbImage::from_raw(64, 64, bytes).unwrap().save(&picture).unwrap();
    let inside = |x: u32, y: u32| (24..64).contains(&x) && (16..48).contains(&y);
    image::GrayImage::from_fn(64, 64, |x, y| image::Luma([if inside(x, y) { 255 } else { 0 }])).save(&mask).unwrap();
    (picture, mask)
}
