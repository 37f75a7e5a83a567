"""Directories with chat templates of several styles and what transformers renders, tokenises and masks with them."""

import json
import shutil
import tempfile

import encoders
import fixtures
import jinja2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|role|>", "<|eot|>"]
ADDED = ["<think>", "</think>"]
TOKENS = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")

# The system prompt folded into the first user turn; the prompt ends with a space that belongs to the first token of the answer.
FOLDED = r"""{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set opening = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Users and assistants must take turns, starting with a user') }}
    {%- endif %}
    {%- set content = message['content'] %}
    {%- if loop.first and opening is defined %}
        {%- set content = '[SYS] ' + opening + ' [/SYS]\n\n' + content %}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + content.strip() + ' [/INST] ' }}
    {%- elif message['role'] == 'assistant' %}
        {{- content | trim + eos_token }}
    {%- else %}
        {{- raise_exception('No turn for the role ' + message['role']) }}
    {%- endif %}
{%- endfor %}
"""

# Headers around role names, a date that is passed or today's, and a token that only this directory names.
HEADERS = r"""{{- bos_token }}
{%- if date_string is not defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- role_token ~ 'system\n\n' }}
{{- 'Date: ' ~ date_string ~ '\n\n' }}
{{- system }}
{{- eos_token }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception("A turn can't be of the role \"" ~ message.role ~ '"') }}
    {%- endif %}
    {{- role_token ~ message.role ~ '\n\n' ~ message.content | trim ~ eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- role_token ~ 'assistant\n\n' }}
{%- endif %}
{{- '<|additional|>' if additional_special_tokens is defined or extra_special_tokens is defined }}
"""

# The first of two named templates. The newline that ends a turn and the one before the next are a single token.
PLAIN = r"""{{ bos_token }}{% for message in messages %}
{% if message.role not in ('system', 'user', 'assistant') %}
    {{ raise_exception('Without tools there is no role ' ~ message.role) }}
{% endif %}
{{ '\n' if not loop.first }}<|im_start|>{{ message.role | capitalize }}
{{ message.content }}
{% endfor %}
{% if add_generation_prompt %}

<|im_start|>Assistant
{% endif %}"""

TOOL_USE = r"""{{- bos_token }}
{%- set state = namespace(system='', calls=0) %}
{%- if messages[0].role == 'system' %}
    {%- set state.system = messages[0].content.strip() %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- if turns | selectattr('role', 'equalto', 'user') | list | length == 0 %}
    {{- raise_exception('Nobody asked anything') }}
{%- endif %}
{{- '<|im_start|>system\n' }}
{%- if state.system %}
    {{- state.system ~ '\n\n' }}
{%- endif %}
{{- tools | length ~ ' tools\n' }}
{%- for tool in tools %}
    {%- set function = tool.get('function', tool) %}
    {{- loop.index0 ~ '. ' ~ function.name.upper() }}
    {%- for name, schema in function.parameters.properties.items() %}
        {{- ' with ' if loop.first else ', ' }}
        {{- name ~ ': ' ~ schema.get('type', 'anything') }}
        {%- if loop.last %}
            {{- ';' }}
        {%- endif %}
    {%- endfor %}
    {%- if function.note is defined %}
        {{- ' note ' ~ function.note }}
    {%- endif %}
    {{- '\n' ~ function | tojson(indent=4) ~ '\n' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {%- set content = message.content %}
        {%- if content is not string %}
            {%- set content = content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\n') %}
        {%- endif %}
        {{- '<|im_start|>user' }}
        {%- if content.startswith('/') %}
            {{- ' ' ~ content[1:].split(' ')[0].upper() }}
        {%- endif %}
        {{- '\n' ~ content ~ '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- if message.content is defined %}
            {{- message.content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- set state.calls = state.calls + 1 %}
            {{- '<call ' ~ state.calls ~ '> ' ~ call.function.name }}
            {%- if call.function.arguments is mapping %}
                {{- ' ' ~ call.function.arguments | tojson }}
                {%- for key, value in call.function.arguments.items() %}
                    {{- '\n' ~ key ~ '=' ~ (value if value is string else value | tojson) }}
                {%- endfor %}
            {%- elif call.function.arguments is string %}
                {{- ' ' ~ call.function.arguments.strip() }}
            {%- endif %}
            {{- '\n' if not loop.last }}
        {%- endfor %}
        {{- eos_token ~ '\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>tool' }}
        {%- if not loop.first and turns[loop.index0 - 1].role == 'tool' %}
            {{- ' too' }}
        {%- endif %}
        {{- '\n' ~ (message.content if message.content is string else message.content | tojson) ~ '<|im_end|>\n' }}
    {%- else %}
        {{- raise_exception('With tools there is no role ' ~ message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# Whose layout depends on trim_blocks and lstrip_blocks. Reasoning before the last question is left out.
LOOPS = r"""{# No token opens the text: bos_token is null here and prints nothing. #}
{{ bos_token -}}
{% set shown = {'system': 'system', 'user': 'user', 'assistant': 'assistant', 'tool': 'user'} %}
{% macro header(role, mark='<|im_start|>') -%}
    {{ mark ~ shown[role] }}
{% endmacro %}
{% set last = namespace(question=-1) %}
{% for message in messages[::-1] %}
    {% if message.role == 'user' %}
        {% set last.question = messages | length - 1 - loop.index0 %}
        {% break %}
    {% endif %}
{% endfor %}
{% set spoken = false %}
{% for message in messages %}
    {% if loop.first %}
        {% set opened = true %}
    {% elif opened is defined %}
A variable set in one turn must not be seen in the next.
    {% endif %}
    {% if message.role not in shown %}
        {{- raise_exception(message.role ~ ' is none of ' ~ shown | join(', ')) }}
    {% endif %}
    {% if message.role == 'system' and not loop.first %}
        {% continue %}
    {% endif %}
    {% set spoken = true %}
    {% set text = message.content %}
    {% if message.role == 'assistant' %}
        {% set thought = message.reasoning_content | default('') %}
        {% if not thought and '</think>' in text %}
            {% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}
            {% set text = text.split('</think>')[-1].lstrip('\n') %}
        {% endif %}
{{ header(message.role) -}}
        {% if thought and loop.index0 > last.question %}
<think>
{{ thought }}
</think>

        {% endif %}
{{ text }}{{ eos_token }}
    {% elif message.role == 'tool' %}
        {% if loop.previtem is not defined or loop.previtem.role != 'tool' %}
{{ header('tool') -}}
        {% endif %}
<result>
    {{ text }}
</result>
        {% if loop.last or loop.nextitem.role != 'tool' %}
{{ eos_token }}
        {% endif %}
    {% else %}
{{ header(role=message.role) }}{{ text }}{{ eos_token }}
    {% endif %}
{% endfor %}
{% for name, value in (settings | default({})).items() if value not in ['', none] %}
    {% if loop.first %}
Settings:
    {% endif %}
  {%+ if value %}+{% else %}-{% endif +%}
 {{ name }}
{% else %}
    {{- '<|unset|>\n' if settings is defined -}}
{% endfor %}
{% if spoken %}
A variable set in a loop must not be seen after it.
{% endif %}
{% if add_generation_prompt %}
{{ header('assistant') -}}
    {% if enable_thinking is defined and not enable_thinking %}
<think>

</think>

    {% endif %}
{% endif %}
"""

# Chosen by the name of its file, when there are tools.
LOOPS_TOOL_USE = r"""<|role|>tools
{% for tool in tools %}
{{ tool | tojson }}
{% else %}
none
{%- endfor +%}

{% for message in messages %}
<|role|>{{ message.role }}
    {%- if message.content %}

{{ message.content -}}
    {% endif %}
{{ eos_token }}
{%- endfor %}
{% if add_generation_prompt %}
<|role|>assistant
{%- endif %}
"""

# Spans within a line, on lines of their own, and with the whitespace around them cut off.
GENERATION = r"""{{ bos_token -}}
{% for message in messages %}
    {% if message.role in ['system', 'user', 'tool'] %}
<|role|>{{ message.role }}: {{ message.content }}
    {% elif message.role == 'assistant' %}
<|role|>assistant: {% generation %}{{ message.content | default('') }}{% endgeneration %}
        {{- '\n' -}}
        {% for call in message.tool_calls | default([]) %}
            {% set name = call.function.name %}
            {% generation %}
<call {{ loop.index }}> {{ name }} {{ call.function.arguments | tojson }}
            {% set name = 'unseen' %}
            {% endgeneration %}
  of {{ name }}
        {% endfor %}

        {%- generation -%}
            {{ eos_token if loop.last else '<|im_end|>' }}
        {%- endgeneration -%}

        {{ '\n' }}
    {%- else %}
        {{- raise_exception('Nobody is a ' ~ message.role) }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|role|>assistant: ' }}
{%- endif %}
"""


def say(role, content, **more):
    return {"role": role, "content": content} | more


def talk(*contents):
    """Turns of a user and an assistant, in alternation."""
    return [say("user" if i % 2 == 0 else "assistant", content) for i, content in enumerate(contents)]


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name, properties, **more):
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": f"Calls {name}.", "parameters": parameters} | more}


def noted(note):
    """The smallest tool that the template takes, with a value that it prints as Python would."""
    return {"name": "t", "parameters": {"properties": {}}, "note": note}


SYSTEM = say("system", "  Answer briefly: the river path was slow and noisy.\n")
QUESTION, ANSWER, NEXT, LAST = "Was the small garden wonderful?", "the small garden was wonderful.", "and the river path", "it looked fairly plain."
COMMON = {
    "single": talk(QUESTION, ANSWER),
    "several": talk(QUESTION, ANSWER, NEXT, LAST, QUESTION, ANSWER),
    "system": [SYSTEM, *talk(QUESTION, ANSWER, NEXT, LAST)],
    "unicode": [say("system", "Répondez en français 🙂"), *talk("Zażółć gęślą jaźń — 日本語", "é 👩‍👩‍👧 e\u0301 🙂🙂", "ß", "日本 ok")],
    "empty": talk("", "", QUESTION, ""),
    "spaces": talk("  two  spaces \t", "\n\n the garden  \n", "\u00a0no break\u00a0", " \u3000wide\u3000 \u2028"),
    "newlines": talk("one\r\ntwo\n", "three\n", "\n", "four\n\n"),
    "marks": talk("<b>&amp; 'quoted' \"twice\" \\n {{ 1 }} {% x %}", "</s> <|im_end|> [INST] <|role|>user", "<s>", "<>&'"),
    "question last": talk(QUESTION, ANSWER, NEXT),
    "question only": [SYSTEM, say("user", QUESTION)],
    "refused role": [*talk(QUESTION), say("narrator", "Meanwhile.")],
}

WEATHER = tool("weather", {"city": {"type": "string", "description": "City & <country>, 'quoted'"}, "days": {"type": "integer"}})
SEARCH = tool("search", {"Größe": {"enum": ["groß", "日本", "\u2028"]}, "empty": {}, "none": {"type": "array", "items": {}, "default": []}})
SEARCHED = [
    say("user", "Weather?"),
    say("assistant", "Let me see. ", tool_calls=[call("weather", {"city": 'Łódź "Centrum"\n<a href=\'x\'>&</a>', "days": 3})]),
    say("tool", '{"sky": "ясно"}'),
    say("assistant", "Clear."),
]
NUMBERS = {"a": 1.0, "b": 1e16, "c": 1e-5, "d": -0.0, "e": 0.1, "f": 12345678901234567890, "g": True, "h": None, "i": 1.5e300, "j": [], "k": {"l": [1]}}
CONTROL = {"text": "\x00\x1f\x7f\b\f\t\\/é\u2029🙂", "nested": [{"z": 1, "a": "</s>"}]}

FOLDED_CASES = [
    ("two users", [say("user", "one"), say("user", "two")], {}),
    ("assistant first", talk("one", "two")[1:], {}),
    ("system twice", [SYSTEM, SYSTEM, say("user", "one")], {}),
    ("other bos", talk(QUESTION, ANSWER), {"bos_token": "<|im_start|>", "unused": 1}),
    ("no content", [{"role": "user"}, say("assistant", ANSWER)], {}),
    ("null content", [say("user", None), say("assistant", ANSWER)], {}),
    ("no messages", [], {}),
]
HEADERS_CASES = [
    ("other date", talk(QUESTION, ANSWER), {"date_string": "1 août 2031"}),
    ("system later", [*talk(QUESTION, ANSWER), SYSTEM], {}),
    ("tool", [*talk(QUESTION, ANSWER), say("tool", " 42 "), say("assistant", LAST)], {}),
]
TOOLS_CASES = [
    ("no tools", talk(QUESTION, ANSWER), {"tools": []}),
    ("no tools given", SEARCHED, {}),
    ("tools, no call", [SYSTEM, *talk("/find all", ANSWER, "/", LAST)], {"tools": [WEATHER, SEARCH]}),
    ("call", SEARCHED, {"tools": [WEATHER]}),
    ("bare tool", talk(QUESTION, ANSWER), {"tools": [SEARCH["function"]]}),
    ("arguments as text", [say("user", "?"), say("assistant", "", tool_calls=[call("weather", ' {"city": "x"}\n')])], {"tools": [noted("")]}),
    (
        "two calls, null content",
        [
            *talk("Weather?"),
            say("assistant", None, tool_calls=[call("weather", {"city": "Łódź"}), call("search", {})]),
            say("tool", {"sky": None}),
            say("tool", ["<", 1.0]),
            say("assistant", "Clear.", tool_calls=None),
        ],
        {"tools": [WEATHER]},
    ),
    ("numbers", [say("user", "?"), say("assistant", "", tool_calls=[call("weather", NUMBERS)])], {"tools": [noted("")]}),
    ("control characters", [say("user", "?"), say("assistant", "", tool_calls=[call("weather", CONTROL)])], {"tools": [noted("")]}),
    (
        "parts",
        [say("user", [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "/b"}]), say("assistant", "c")],
        {"tools": [noted("")]},
    ),
    ("methods as keys", talk(QUESTION, ANSWER), {"tools": [tool("keys", {"items": {"type": "array"}, "get": {"get": 1}, "keys": {"items": 2}})]}),
    ("printed scalars", talk(QUESTION, ANSWER), {"tools": [noted(note) for note in ("text", True, False, None, 3, 1.0, 1e16, 1e-5)]}),
    ("printed containers", talk(QUESTION, ANSWER), {"tools": [noted(note) for note in ([1, "a'", None, 'b"', "é\n"], {"k": True, "l": {}}, [])]}),
    ("refused role with tools", COMMON["refused role"], {"tools": [WEATHER]}),
    ("no question", [say("assistant", ANSWER)], {"tools": [WEATHER]}),
]
THOUGHT = "<think>\nThe garden, hm.\n</think>\n\n"
LOOPS_CASES = [
    ("reasoning", talk(QUESTION, THOUGHT + ANSWER), {}),
    ("earlier reasoning", talk(QUESTION, THOUGHT + ANSWER, NEXT, LAST), {}),
    ("reasoning, last turn", talk(QUESTION, ANSWER, NEXT, THOUGHT + LAST), {}),
    ("reasoning, question last", talk(QUESTION, THOUGHT + ANSWER, NEXT), {}),
    ("reasoning apart", [say("user", QUESTION), say("assistant", ANSWER, reasoning_content="Hm.\n")], {}),
    ("reasoning by an older name", [say("user", QUESTION), say("assistant", ANSWER, thinking="Hm 1")], {}),
    ("reasoning by another name", [say("user", QUESTION), say("assistant", ANSWER, reasoning="Hm 2"), *talk(NEXT, LAST)], {}),
    ("reasoning around tools", [*talk(QUESTION, THOUGHT + "Look."), say("tool", "1"), say("tool", "2"), say("assistant", THOUGHT + ANSWER)], {}),
    ("no thinking", talk(QUESTION, ANSWER), {"enable_thinking": False}),
    ("thinking", talk(QUESTION, ANSWER), {"enable_thinking": True}),
    ("system later", [*talk(QUESTION, ANSWER), SYSTEM, *talk(NEXT, LAST)], {}),
    ("settings", talk(QUESTION), {"settings": {"one": 1, "skipped": "", "two": 0, "none": None, "three": "x"}}),
    ("no settings", talk(QUESTION), {"settings": {"skipped": ""}}),
    ("tools", [SYSTEM, *talk(QUESTION, ANSWER, "", LAST)], {"tools": [WEATHER, SEARCH]}),
    ("no tools", talk(QUESTION, ANSWER), {"tools": []}),
]
GENERATION_CASES = [
    ("calls", [SYSTEM, *SEARCHED, say("user", NEXT), say("assistant", LAST)], {}),
    (
        "two calls, null content",
        [*talk("?"), say("assistant", None, tool_calls=[call("a", {"é": "🙂"}), call("b", CONTROL)]), say("tool", "ясно"), say("assistant", "ok")],
        {},
    ),
    ("assistant first", [say("assistant", ANSWER), say("user", NEXT)], {}),
]


def train():
    """Byte-level BPE that joins a word with the space before it and two newlines, and puts `<s>` before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=310, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([f" {sentence}\n\n" for sentence in encoders.SENTENCES], trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    # Trimmed offsets would hide the space before a word, and with it that the word's token begins before a span.
    bos = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    assert tokenizer.encode("\n\n", add_special_tokens=False).tokens == ["ĊĊ"]
    return tokenizer


def token(content):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def directories(tokenizer):
    """The files of each directory next to the shared `tokenizer.json`, and its cases: name, messages, other variables."""
    common = [(name, messages, {}) for name, messages in COMMON.items()]
    dated = [(name, messages, {"date_string": "26 Jul 2024"} | extra) for name, messages, extra in common + HEADERS_CASES]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096}
    decoder = {str(tokenizer.token_to_id(name)): token(name) | {"special": name in SPECIAL} for name in SPECIAL + ADDED}
    # With `added_tokens_decoder` the map is not read, so `<s>` stays; without it the map has the last word.
    folded = config | TOKENS | {"add_bos_token": True, "added_tokens_decoder": decoder, "chat_template": FOLDED}
    yield "folded", {"tokenizer_config.json": folded, "special_tokens_map.json": {"bos_token": "<|role|>"}}, common + FOLDED_CASES
    named = {"bos_token": {"__type": "AddedToken", **token("<s>")}, "eos_token": token("<|eot|>") | {"__type": "AddedToken"}, "role_token": "<|role|>"}
    headers = config | named | {"additional_special_tokens": ["<|im_start|>"], "chat_template": "{{ raise_exception('The file goes first') }}"}
    yield "headers", {"tokenizer_config.json": headers, "chat_template.jinja": HEADERS}, dated
    templates = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TOOL_USE}]
    yield "tools", {"tokenizer_config.json": config | TOKENS | {"eos_token": "<|im_end|>", "chat_template": templates}}, common + TOOLS_CASES
    loops = config | {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<pad>", "chat_template": [{"name": "default", "template": "lost"}]}
    files = {"tokenizer_config.json": loops, "chat_template.jinja": LOOPS, "additional_chat_templates/tool_use.jinja": LOOPS_TOOL_USE}
    yield "loops", files, common + LOOPS_CASES
    generation = config | {"bos_token": "<|role|>", "eos_token": "<|im_end|>", "chat_template": GENERATION}
    legacy = {"bos_token": token("<s>"), "eos_token": "</s>", "additional_special_tokens": ["<|im_start|>"]}
    yield "generation", {"tokenizer_config.json": generation, "special_tokens_map.json": legacy}, common + GENERATION_CASES


def load(folder, shared):
    """The directory and the tokenizer's file as transformers loads them."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        shutil.copy(shared / "tokenizer.json", copy)
        return PreTrainedTokenizerFast.from_pretrained(copy)


def turn_spans(render, messages, text):
    """The characters that each assistant turn adds to its prompt; `None` where a turn changes what was before it."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before, after = render(messages[:i], add_generation_prompt=True), render(messages[: i + 1])
            if not after.startswith(before) or not text.startswith(after):
                return None
            spans.append([len(before), len(after)])
    return spans


def trained(offsets, spans):
    """1 for every token that ends within a span, also where it begins before it."""
    return [int(any(start < last and first < end <= last for first, last in spans)) for start, end in offsets]


def tagged(tokenizer, messages, extra):
    """The mask that transformers makes of `generation` tags, and the characters that it covers."""
    mask = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, **extra)["assistant_masks"]
    _, spans = chat_template_utils.render_jinja_template(
        [chat_template_utils._normalize_chat_messages(messages)],
        chat_template=tokenizer.get_chat_template(tools=extra.get("tools")),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map | extra,
    )
    return [list(span) for span in spans[0]], mask


def record(tokenizer, name, messages, extra):
    case = {"name": name, "messages": messages, "extra": extra}
    render = lambda turns, **options: tokenizer.apply_chat_template(turns, tokenize=False, **options, **extra)
    try:
        text = render(messages)
    except Exception as error:
        # Only the words of `raise_exception` are the template's own.
        return case | {"error": "raised", "message": str(error) if type(error) is jinja2.TemplateError else None}
    cut = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    case |= {"text": text, "prompt": render(cut, add_generation_prompt=True), "ids": encoded["input_ids"]}
    assert tokenizer.apply_chat_template(messages, **extra)["input_ids"] == case["ids"]
    if "endgeneration" in tokenizer.get_chat_template(tools=extra.get("tools")):
        spans, mask = tagged(tokenizer, messages, extra)
        return case | {"spans": spans, "mask": mask}
    spans = turn_spans(render, messages, text)
    return case | ({"error": "changed"} if spans is None else {"spans": spans, "mask": trained(encoded["offset_mapping"], spans)})


def generate(out):
    folder = fixtures.fresh(out / "chat")
    tokenizer, shared = train(), folder / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=4096, **TOKENS).save_pretrained(shared)
    for name, files, cases in directories(tokenizer):
        for file, content in files.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8")
        loaded = load(folder / name, shared)
        lines = ",\n".join(json.dumps(record(loaded, *case), ensure_ascii=False) for case in cases)
        (folder / name / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    fixtures.main(generate)
