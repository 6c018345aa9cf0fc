"""What tools written for Hugging Face's models do with ours: PEFT, Trainer, accelerate, pipelines."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tools import fresh_accelerate

from mimsuite.encoders.outputs import BaseModelOutput, ImageClassifierOutput
from mimsuite.errors import InputError
from mimsuite.models import (
    AutoModelForImageClassification,
    BitConfig,
    BitForImageClassification,
    CvtConfig,
    CvtForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

VIT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
VIT |= {"image_size": 16, "patch_size": 8, "encoder_stride": 8}
CVT = {"embed_dim": [4, 8, 8], "num_heads": [1, 1, 2], "depth": [1, 2, 3]}
BIT = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_groups": 2}
MODELS = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**VIT, num_labels=3)),
    "cvt": lambda: CvtForImageClassification(CvtConfig(**CVT, num_labels=3)),
    "bit": lambda: BitForImageClassification(BitConfig(**BIT, num_labels=3)),
}


@pytest.fixture(autouse=True)
def fresh():
    with fresh_accelerate():
        yield


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- PEFT ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize(("family", "targets"), [("vit", ["query", "value"]), ("cvt", "all-linear")])
def test_adapters_of_peft_act_are_saved_and_merge_into_a_folder_of_ours(tmp_path, pixels, family, targets):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    model.save_pretrained(tmp_path / "base")
    plain = model(pixels).logits
    options = peft.LoraConfig(target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, options).eval()
    logits = adapted(pixels).logits
    assert (logits - plain).abs().max() > 1e-4
    logits.sum().backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trained)
    assert all(p.grad is not None and p.grad.any() for name, p in trained.items() if "lora_B" in name)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="holds an adapter of PEFT, and no model"):
        type(model).from_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(again.eval()(pixels).logits, logits)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(pixels).logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_adapters_train_with_recomputed_blocks(pixels):
    peft = pytest.importorskip("peft")
    model = MODELS["vit"]()
    model.gradient_checkpointing_enable()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "value"]))
    adapted(pixels, labels=torch.tensor([0, 1])).loss.backward()
    grads = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert len(grads) == 4
    assert all(grad is not None and grad.any() for grad in grads)


# --- Trainer -------------------------------------------------------------------------------------------------


def trainer(model, folder, steps, **options):
    transformers = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(1)
    data = [{"pixel_values": torch.randn(3, 16, 16, generator=generator), "labels": i % 3} for i in range(16)]
    options = {"save_strategy": "no", "learning_rate": 0.01} | options
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True,
        logging_strategy="no", seed=3, **options,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data)


@pytest.mark.filterwarnings("ignore")  # Trainer's own
@pytest.mark.parametrize("family", MODELS)
def test_trainer_writes_folders_that_are_read(tmp_path, family):
    made = trainer(MODELS[family](), tmp_path / "run", 2, save_strategy="steps", save_steps=1)
    made.train()
    made.save_model(str(tmp_path / "last"))
    for folder in (tmp_path / "last", tmp_path / "run" / "checkpoint-2"):
        again = AutoModelForImageClassification.from_pretrained(folder)
        assert type(again) is type(made.model)
        same(again.state_dict(), made.model.state_dict())
    first = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-1")
    assert not torch.equal(first.classifier.state_dict().popitem()[1], again.classifier.state_dict().popitem()[1])


@pytest.mark.filterwarnings("ignore")
def test_trainer_resumes_with_the_same_numbers(tmp_path):
    torch.manual_seed(0)
    start = MODELS["vit"]().state_dict()

    def fresh():
        model = MODELS["vit"]()
        model.load_state_dict(start)
        return model

    whole = trainer(fresh(), tmp_path / "a", 4)
    whole.train()
    trainer(fresh(), tmp_path / "b", 4, save_strategy="steps", save_steps=2).train()
    again = trainer(fresh(), tmp_path / "b", 4)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert again.state.global_step == 4
    same(again.model.state_dict(), whole.model.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_trainer_recomputes_blocks_and_loads_its_best_model(tmp_path):
    made = trainer(
        MODELS["vit"](), tmp_path, 2, gradient_checkpointing=True, save_strategy="steps", save_steps=1,
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
    )  # fmt: skip
    made.train()
    best = AutoModelForImageClassification.from_pretrained(made.state.best_model_checkpoint)
    same(best.state_dict(), made.model.state_dict())


# --- accelerate, pipelines -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_accelerate_trains_and_saves(tmp_path, pixels):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = MODELS["bit"]()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accelerator.backward(model(pixels, labels=torch.tensor([0, 1])).loss)
    optimizer.step()
    whole = accelerator.unwrap_model(model)
    whole.save_pretrained(
        tmp_path,
        is_main_process=accelerator.is_main_process,
        save_function=accelerator.save,
        state_dict=accelerator.get_state_dict(model),
    )
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    same(again.state_dict(), whole.state_dict())
    assert any(not torch.equal(t, before[k]) for k, t in again.state_dict().items())
    accelerator.save_state(tmp_path / "state")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    accelerator.load_state(tmp_path / "state")
    same(model.state_dict(), again.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_classifies(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = MODELS["vit"]().eval()
    model.config.id2label = {0: "cat", 1: "dog", 2: "owl"}
    pipe = transformers.pipeline("image-classification", model=model, image_processor=ViTImageProcessor(size=16))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8))
    found = pipe(image, top_k=2)
    logits = model(**ViTImageProcessor(size=16)(image, return_tensors="pt")).logits.softmax(-1)[0]
    assert [one["label"] for one in found] == [
        model.config.id2label[int(i)] for i in logits.argsort(descending=True)[:2]
    ]
    assert found[0]["score"] == pytest.approx(float(logits.max()), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_gives_features():
    transformers = pytest.importorskip("transformers")
    model, processor = MODELS["vit"]().base_model.eval(), ViTImageProcessor(size=16)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8))
    found = transformers.pipeline("image-feature-extraction", model=model, image_processor=processor)(image)
    wanted = model(**processor(image, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(torch.tensor(found), wanted.detach())


def test_beside_transformers_an_output_is_one_of_its_outputs_too():
    generic = pytest.importorskip("transformers.utils.generic")
    out = ImageClassifierOutput(logits=torch.ones(1, 2))
    assert isinstance(out, generic.ModelOutput)
    assert isinstance(out, ImageClassifierOutput)
    assert not isinstance(out, BaseModelOutput)
    for copied in (copy.deepcopy(out), copy.copy(out), pickle.loads(pickle.dumps(out)), dataclasses.replace(out)):
        assert type(copied) is ImageClassifierOutput
        assert torch.equal(copied.logits, out.logits)
    leaves, spec = torch.utils._pytree.tree_flatten(out)
    assert type(torch.utils._pytree.tree_unflatten(leaves, spec)) is ImageClassifierOutput
    model, pixels = MODELS["vit"]().eval(), torch.randn(1, 3, 16, 16)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(pixels)
    assert type(compiled) is ImageClassifierOutput
    torch.testing.assert_close(compiled.logits, model(pixels).logits)
