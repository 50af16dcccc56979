// Changes .tsr files so that most of them stay safetensors files: the length of the header is made to fit, and the
// texts in its metadata are changed as texts, not through their quotes.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

namespace {

struct File {
    std::string header, body;
};

File split(const uint8_t *data, size_t size) {
    uint64_t length = 0;
    if (size >= sizeof length)
        std::memcpy(&length, data, sizeof length);
    size_t header = std::min<size_t>(length, size < 8 ? 0 : size - 8);
    auto *text = reinterpret_cast<const char *>(data) + std::min<size_t>(size, 8);
    return {std::string(text, header), std::string(text + header, size < 8 ? 0 : size - 8 - header)};
}

size_t join(const File &file, uint8_t *data, size_t max_size) {
    uint64_t length = file.header.size();
    if (8 + file.header.size() + file.body.size() > max_size)
        return 0;
    std::memcpy(data, &length, 8);
    std::copy(file.header.begin(), file.header.end(), data + 8);
    std::copy(file.body.begin(), file.body.end(), data + 8 + file.header.size());
    return 8 + file.header.size() + file.body.size();
}

std::string mutated(const std::string &text, size_t max_size) {
    std::string out = text;
    out.resize(std::max(max_size, text.size()) + 1);
    out.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(out.data()), text.size(), out.size()));
    return out;
}

// Puts numbers of interest in the place of one of the text's numbers.
std::string with_other_number(const std::string &text, std::minstd_rand &random) {
    static const char *const numbers[] = {"0", "-1", "1", "2", "63", "64", "65", "4294967296", "4611686018427387904",
                                          "9223372036854775807", "-9223372036854775808", "999999999999999999"};
    std::vector<size_t> places;
    auto digit = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
    for (size_t i = 0; i < text.size(); ++i)
        if (digit(i) && (i == 0 || !digit(i - 1)))
            places.push_back(i);
    if (places.empty())
        return text;
    size_t begin = places[random() % places.size()], end = begin;
    while (digit(end))
        ++end;
    return text.substr(0, begin) + numbers[random() % (sizeof numbers / sizeof *numbers)] + text.substr(end);
}

struct Span {
    size_t begin, end;
};

// Where the long string literals of a header are, without their quotes: its plans and graphs.
std::vector<Span> long_strings(const std::string &header) {
    std::vector<Span> out;
    for (size_t at = 0; at < header.size(); ++at) {
        if (header[at] != '"')
            continue;
        size_t begin = ++at;
        while (at < header.size() && header[at] != '"')
            at += header[at] == '\\' ? 2 : 1;
        if (at <= header.size() && at - begin > 48)
            out.push_back({begin, at});
    }
    return out;
}

std::string unescaped(const std::string &text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i)
        if (text[i] != '\\' || i + 1 == text.size())
            out += text[i];
        else
            out += text[++i] == 'n' ? '\n' : text[i];
    return out;
}

std::string escaped(const std::string &text) {
    std::string out;
    for (char c : text) {
        if (c == '"' || c == '\\')
            out += '\\';
        if (c == '\n')
            out += "\\n";
        else
            out += c;
    }
    return out;
}

// Changes one of the texts in the metadata; false when there is none.
bool change_text(File &file, size_t room, std::minstd_rand &random) {
    std::vector<Span> spans = long_strings(file.header);
    if (spans.empty())
        return false;
    Span chosen = spans[random() % spans.size()];
    std::string text = unescaped(file.header.substr(chosen.begin, chosen.end - chosen.begin));
    text = random() % 3 == 0 ? with_other_number(text, random) : mutated(text, text.size() + room);
    file.header.replace(chosen.begin, chosen.end - chosen.begin, escaped(text));
    return true;
}

} // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    std::minstd_rand random(seed);
    random.discard(2);
    unsigned choice = random() % 16;
    size_t room = max_size > size ? std::min<size_t>(max_size - size, 256) : 0;
    File file = split(data, size);
    if (choice == 0 || size < 8)
        return LLVMFuzzerMutate(data, size, max_size);
    if (choice == 1)
        file.body = mutated(file.body, file.body.size() + room);
    else if (choice <= 3)
        file.header = mutated(file.header, file.header.size() + room);
    else if (choice <= 5)
        file.header = with_other_number(file.header, random);
    else if (!change_text(file, room, random))
        file.header = mutated(file.header, file.header.size() + room);
    size_t out = join(file, data, max_size);
    return out ? out : LLVMFuzzerMutate(data, size, max_size);
}
