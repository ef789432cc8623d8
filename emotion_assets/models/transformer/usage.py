"""The Python that reads an exported model: it stands in the model card, and the tests run it from there.

Each piece defines ``probabilities(text, temperature)`` by nothing but transformers, or PEFT for an adapter alone.
"""

from __future__ import annotations

from emotion_assets.models.transformer.classifier import ClassifierConfig

FACTS = "classifier.json"
"""What an adapter's folder keeps beside it, as a merged model does in its config.json."""

POOLED = {"first": "{}[0]", "last": "{}[-1]", "mean": "{}.mean(0)", "max": "{}.amax(0)"}
ANSWER = """    scores = (scores / temperature).softmax(-1)
    return dict(zip(labels, scores.tolist()))
"""
INSTRUCTION = """    # A text that is too long is cut; the instruction never is.
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(tokens) > facts["max_text_tokens"]:
        text = text[: tokens[facts["max_text_tokens"] - 1][1]]
    messages = [{"role": "user", "content": facts["instruction"] + "\\n" + text}]
    if facts["system"]:
        messages.insert(0, {"role": "system", "content": facts["system"]})
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    # The log-probability of each label's tokens after the prompt.
    scores = []
    for answer in facts["answers"]:
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].float()
        scores.append(logits.log_softmax(-1)[range(len(answer)), answer].sum())
    scores = torch.stack(scores)
"""
FOUR_BITS = """quantization = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.{dtype}
)
"""


def merged(loaded_by: str, config: ClassifierConfig) -> str:
    """For a merged model: ``loaded_by`` is its class of transformers."""
    head = (
        f"import torch\nfrom transformers import {loaded_by}, AutoTokenizer\n\n"
        'FOLDER = "."  # this folder, or its name on a hub\n'
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
        f"model = {loaded_by}.from_pretrained(FOLDER).eval()\n"
        "labels = [model.config.id2label[i] for i in range(model.config.num_labels)]\n"
    )
    if config.objective == "instruction":
        return head + "facts = model.config.to_dict()\n" + _define(INSTRUCTION)
    scores = "model(**inputs).logits[0].float()"
    if loaded_by == "AutoModelForTokenClassification":
        scores = POOLED[config.pooling].format(scores) + "  # of the tokens: a linear head commutes with this"
    return head + _define(
        '    inputs = tokenizer(text, truncation=True, return_tensors="pt")\n'
        f"    with torch.no_grad():\n        scores = {scores}\n"
    )


def adapter(config: ClassifierConfig, model_type: str, base: tuple[str, str] | None, dtype: str) -> str:
    """For an adapter alone, on its base in the number format ``dtype``.

    Args:
        model_type: of the base.
        base: its repository on the Hub and its revision; None where it came from elsewhere.
    """
    loader = "AutoModelForCausalLM" if config.objective == "instruction" else "AutoModel"
    four_bits = config.quantization == "nf4"
    name, revision = base or ("path/to/the/base", "")
    options = "quantization_config=quantization" if four_bits else f"dtype=torch.{dtype}"
    options = f'revision="{revision}", {options}' if revision else options
    head = config.objective == "head"
    return (
        "import json\nfrom pathlib import Path\n\nimport torch\nfrom peft import PeftModel\n"
        + ("from safetensors.torch import load_file\n" if head else "")
        + f"from transformers import AutoTokenizer, {loader}{', BitsAndBytesConfig' if four_bits else ''}\n\n"
        + 'FOLDER = "."  # where this card is\n'
        + f'BASE = "{name}"{"" if base else "  # as the card names it; it is on no hub"}\n'
        + "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
        + (FOUR_BITS.format(dtype=dtype) if four_bits else "")
        + f"base = {loader}.from_pretrained(BASE, {options})\n"
        + "model = PeftModel.from_pretrained(base, FOLDER).eval()\n"
        + f'facts = json.loads((Path(FOLDER) / "{FACTS}").read_text(encoding="utf-8"))\n'
        + 'labels = list(facts["id2label"].values())\n'
        + ('head = load_file(f"{FOLDER}/head.safetensors")\n' if head else "")
        + _define(_head(config, model_type) if head else INSTRUCTION)
    )


def _head(config: ClassifierConfig, model_type: str) -> str:
    lines = (
        '    inputs = tokenizer(text, truncation=True, return_tensors="pt")\n'
        "    with torch.no_grad():\n"
        "        hidden = model(**inputs).last_hidden_state[0].float()\n"
        f"    pooled = {POOLED[config.pooling].format('hidden')}\n"
    )
    if config.head == "linear":
        return lines + '    scores = head["weight"] @ pooled + head["bias"]\n'
    if "bert" not in model_type and model_type != "electra":
        return lines + '    scores = head["weight"] @ pooled\n'
    activation = "torch.nn.functional.gelu" if model_type == "electra" else "torch.tanh"
    dense = f'    pooled = {activation}(head["dense.weight"] @ pooled + head["dense.bias"])\n'
    return lines + dense + '    scores = head["out.weight"] @ pooled + head["out.bias"]\n'


def _define(body: str) -> str:
    return f"\n\ndef probabilities(text: str, temperature: float = 1.0) -> dict[str, float]:\n{body}{ANSWER}"
