//! What reaches the agent from outside, over seeded garbage: workers' lines, answers about clips, pictures, weights.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

#[path = "../../tests/hostile/garbage.rs"]
mod garbage;
mod tiny;

use std::cell::{Cell, RefCell};

use backlot_agent::infer::models::tokenizer::Tokenizer;
use backlot_agent::infer::models::{clip, config, folder, inversion, lora, motion, svd, unet, upscale, vae};
use backlot_agent::infer::sampler::{Kind, Sampler, Schedule};
use backlot_agent::infer::weights::Weights;
use backlot_agent::{frames, worker};
use bytes::Bytes;

use garbage::{over_garbage, over_text};
use tiny::files;

#[test]
fn no_line_of_a_worker_makes_the_agent_panic() {
    let seeds = [
        r#"{"phase":"infer"}"#,
        r#"{"percent":140.5,"frame":3}"#,
        r#"{"error":"no face","permanent":true,"cause":"vram"}"#,
        r#"{"output":"a.png","width":4,"model":"m","seed":7}"#,
        r#"{"partial":"f1.png","width":4}"#,
        r#"{"done":true}"#,
    ];
    over_text(4_000, &seeds, |line| drop(worker::protocol::understand(line)));
}

#[test]
fn no_answer_about_a_clip_makes_the_agent_panic() {
    let answer = r#"{"streams":[{"index":0,"codec_type":"video","width":320,"height":180,"nb_frames":"2","avg_frame_rate":"25/1","r_frame_rate":"25/1",
        "start_time":"0.0","sample_aspect_ratio":"4:3","side_data_list":[{"rotation":-90}],"disposition":{"attached_pic":0}},
        {"index":1,"codec_type":"audio","codec_name":"aac"}],"format":{"start_time":"0.0","duration":"0.08"}}"#;
    let with_packets = format!("{answer}\00.000000,K__\n0.040000,___\n");
    over_garbage(4_000, &[with_packets.as_bytes(), answer.as_bytes()], frames::probe::fuzz_answers);
}

#[test]
fn no_file_makes_the_agent_panic_when_it_reads_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture");
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg, image::ImageFormat::WebP] {
        let mut file = std::io::Cursor::new(Vec::new());
        image::RgbImage::from_pixel(5, 3, image::Rgb([200, 10, 90])).write_to(&mut file, format).unwrap();
        seeds.push(file.into_inner());
    }
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    over_garbage(1_500, &seeds, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let _ = frames::image::decode(&path, 2);
    });
}

#[test]
fn no_file_of_weights_makes_the_agent_panic() {
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"weight":{"dtype":"BF16","shape":[1,1],"data_offsets":[4,6]}}"#;
    let safetensors =
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0, 0, 0x80, 0x3f, 0x80, 0x3f]].concat();
    over_garbage(4_000, &[&safetensors], |bytes| {
        if let Ok(weights) = Weights::safetensors(&Bytes::copy_from_slice(bytes)) {
            for name in ["a", "weight"] {
                let _ = weights.get(name).map(|tensor| tensor.to_f32());
            }
        }
    });
    let param = "7767517\n3 3\nInput in 0 1 data\nConvolution c 1 1 data x 0=1 1=1 5=1 6=3 -23310=1,2.0e-01\nPReLU p 1 1 x y 0=1\n";
    let ncnn = [param.as_bytes(), &0x0130_6b47_u32.to_le_bytes(), &[0, 0x3c, 0, 0x40, 0, 0x44, 0, 0], &[0; 8]].concat();
    over_garbage(4_000, &[&ncnn], |bytes| {
        let (param, bin) = bytes.split_at(param.len().min(bytes.len()));
        let _ = upscale::read(param, &Bytes::copy_from_slice(bin), 2);
    });
}

#[test]
fn no_configuration_or_vocabulary_of_a_model_makes_the_agent_panic() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffusion/sdxl");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let path = dir.path().join("config.json");
    for name in [
        "unet/config.json",
        "vae/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "../svd/unet/config.json",
        "../svd/vae/config.json",
        "../svd/image_encoder/config.json",
        "../svd/scheduler/scheduler_config.json",
    ] {
        over_garbage(60, &[&file(name)], |bytes| {
            std::fs::write(&path, bytes).unwrap();
            if let Ok(config) = config::Unet::read(&path)
                && config.levels.iter().map(|level| level.depth).sum::<usize>() < 50
            {
                let _ = unet::graph(&config);
            }
            if let Ok(config) = config::Vae::read(&path)
                && config.layers < 10
            {
                let _ = (vae::decoder(&config), vae::encoder(&config));
            }
            if let Ok(config) = config::Clip::read(&path) {
                let _ = clip::graph(&config, clip::Wanted::PenultimateAndProjected);
            }
            if let Ok(config) = svd::config::VideoUnet::read(&path)
                && config.levels.iter().map(|level| level.depth).sum::<usize>() < 50
                && config.layers < 10
            {
                let _ = svd::unet::graph(&config, &svd::Mixes::all(0.5)).is_ok();
            }
            if let Ok(config) = svd::config::vae(&path) {
                let _ = svd::decoder::graph(&config, &svd::Mixes::default()).is_ok();
            }
            if let Ok(config) = svd::config::Vision::read(&path) {
                let _ = svd::vision::graph(&config);
            }
            if let Ok(schedule) = Schedule::read(&path) {
                let _ = Sampler::continuous(&schedule, 7);
                for (_, kind) in Kind::ALL {
                    let _ = Sampler::new(kind, &schedule, 7, None);
                }
            }
        });
    }
    let (words, merges) = (file("tokenizer/vocab.json"), file("tokenizer/merges.txt"));
    let (words, cut) = ([words, merges].concat(), file("tokenizer/vocab.json").len());
    over_garbage(50, &[&words], |bytes| {
        let (words, merges) = bytes.split_at(cut.min(bytes.len()));
        std::fs::write(dir.path().join("vocab.json"), words).unwrap();
        std::fs::write(dir.path().join("merges.txt"), merges).unwrap();
        if let Ok(tokenizer) = Tokenizer::read(dir.path()) {
            let _ = tokenizer.encode("a photo of the moon", 77);
        }
    });
}

#[test]
fn no_damage_to_a_model_in_one_file_makes_the_agent_panic() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_folder("sd15", &dir.path().join("sd15"));
    std::fs::rename(dir.path().join("sd15/tokenizer"), dir.path().join("clip-tokenizer")).unwrap();
    let place = dir.path().join("one.safetensors");
    for form in tiny::FORMS {
        let tensors = files::single(form);
        let opened = Cell::new(0);
        over_garbage(12, &[&[7, 1, 5, 2, 9, 0, 3]], |edits| {
            std::fs::write(&place, files::damaged(&tensors, edits)).unwrap();
            opened.set(opened.get() + u32::from(folder::open(&place).is_ok()));
        });
        assert!(opened.get() > 0, "{form}: without an edit it is right");
    }
}

#[test]
fn no_damage_to_what_is_added_to_a_model_makes_the_agent_panic() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_folder("sd15", &dir.path().join("sd15"));
    let place = dir.path().join("adapter.safetensors");
    let model = RefCell::new(folder::open(&dir.path().join("sd15")).unwrap());
    let word = tiny::Tensors::from([("emb_params".to_owned(), (vec![2, 32], vec![0.5; 64]))]);
    let styles = ["kohya", "diffusers"].map(files::lora_tensors);
    over_garbage(60, &[&[0; 7], &[7, 1, 5, 2, 9, 0, 3, 40, 2, 4, 0, 0, 0, 0]], |edits| {
        for tensors in &styles {
            std::fs::write(&place, files::damaged(tensors, edits)).unwrap();
            let _ = lora::merge(&place, 0.5, &mut model.borrow_mut());
        }
        std::fs::write(&place, files::damaged(&word, edits)).unwrap();
        let _ = inversion::add(&place, "word", &mut model.borrow_mut());
    });
}

#[test]
fn no_file_makes_the_agent_panic_when_it_reads_a_lut() {
    let mut cube = String::from("TITLE \"a\"\n# made here\nLUT_3D_SIZE 2\nDOMAIN_MIN 0 0 0\nDOMAIN_MAX 1 1 1\n");
    cube.push_str(&"0.25 0.5 1e-3\n".repeat(8));
    over_garbage(4_000, &[cube.as_bytes()], |bytes| drop(frames::work::Lut::read(bytes)));
}

#[test]
fn no_file_of_motion_modules_makes_the_agent_panic() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_folder("sd15", &dir.path().join("sd15"));
    let tiny_module = dir.path().join("motion/tiny");
    tiny::write_motion(&tiny_module);
    let put = |place: &std::path::Path| {
        let mut model = folder::open(&dir.path().join("sd15")).unwrap();
        motion::add(place, &mut model).map(|()| model.unet_graph()).is_ok()
    };
    let config = std::fs::read(tiny_module.join("config.json")).unwrap();
    let taken = Cell::new(0);
    over_garbage(40, &[&config], |bytes| {
        std::fs::write(tiny_module.join("config.json"), bytes).unwrap();
        taken.set(taken.get() + u32::from(put(&tiny_module)));
    });
    assert!(taken.get() > 0, "without an edit it is right");
    let header = r#"{"module.down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe":{"dtype":"F32","shape":[1,1,1],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    let place = dir.path().join("motion/one.safetensors");
    over_garbage(40, &[&file], |bytes| {
        let _ = std::fs::remove_file(&place);
        std::fs::write(&place, bytes).unwrap();
        let _ = (motion::single(&place).is_ok(), put(&place));
    });
}

#[test]
fn no_damage_to_a_model_of_clips_makes_the_agent_panic() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("svd");
    tiny::write_folder("svd", &folder);
    for (part, file) in [
        ("unet", "unet/diffusion_pytorch_model.safetensors"),
        ("vae", "vae/diffusion_pytorch_model.safetensors"),
        ("image_encoder", "image_encoder/model.safetensors"),
    ] {
        let tensors = tiny::tensors("svd", part);
        let right = std::fs::read(folder.join(file)).unwrap();
        let opened = Cell::new(0);
        over_garbage(12, &[&[7, 1, 5, 2, 9, 0, 3]], |edits| {
            std::fs::write(folder.join(file), files::damaged(&tensors, edits)).unwrap();
            if let Ok(model) = svd::Model::open(&folder) {
                let _ = (model.unet_graph().is_ok(), model.decoder_graph().is_ok());
                opened.set(opened.get() + 1);
            }
        });
        assert!(opened.get() > 0, "{part}: without an edit it is right");
        std::fs::write(folder.join(file), right).unwrap();
    }
}
