#include "safetensors.h"

#include <algorithm>
#include <utility>

namespace dom2 {
namespace {

constexpr int64_t kMaxHeader = 100000000;  // as the safetensors package has it
// Of a dimension or an offset. Products of a size below it and a dimension fit 128 bits by far.
constexpr int64_t kMaxSize = int64_t{1} << 40;
constexpr size_t kMaxRank = 8;

// The part of JSON that a header is made of: objects, lists of whole numbers, strings. The first
// mistake is kept in `error`, and from then on everything fails.
class Json {
 public:
  Json(const char* at, const char* end) : at_(at), end_(end) {}

  std::string error;

  bool fail(const std::string& why) {
    if (error.empty()) error = why;
    return false;
  }

  // Calls field(name) at each value, which it must read.
  template <class F>
  bool object(const F& field) {
    if (!expect('{')) return false;
    if (take('}')) return true;
    do {
      std::string name;
      if (!string(name) || !expect(':') || !field(name)) return false;
    } while (take(','));
    return expect('}');
  }

  bool string(std::string& out) {
    if (!expect('"')) return false;
    out.clear();
    while (at_ < end_ && *at_ != '"') {
      const char c = *at_++;
      if (static_cast<unsigned char>(c) < 0x20) return fail("a text holds a control character");
      if (c != '\\')
        out += c;
      else if (!escape(out))
        return false;
    }
    if (at_ == end_) return fail("a text doesn't end");
    ++at_;
    return true;
  }

  bool number(int64_t& out) {
    space();
    const char* first = at_;
    out = 0;
    for (; at_ < end_ && *at_ >= '0' && *at_ <= '9'; ++at_) {
      out = out * 10 + (*at_ - '0');
      if (out > kMaxSize) return fail("a number is too large");
    }
    if (at_ == first || (at_ - first > 1 && *first == '0')) return fail("no whole number");
    return true;
  }

  bool numbers(std::vector<int64_t>& out) {
    out.clear();
    if (!expect('[')) return false;
    if (take(']')) return true;
    do {
      int64_t n;
      if (!number(n)) return false;
      out.push_back(n);
    } while (take(','));
    return expect(']');
  }

  bool end() {
    space();
    return at_ == end_ || fail("something follows the object");
  }

 private:
  void space() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
  }
  bool take(char c) {
    space();
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  bool expect(char c) { return take(c) || fail(std::string("'") + c + "' is missing"); }

  bool escape(std::string& out) {
    static const char kFrom[] = "\"\\/bfnrt", kTo[] = "\"\\/\b\f\n\r\t";
    if (at_ == end_) return fail("a text doesn't end");
    const char c = *at_++;
    for (int i = 0; kFrom[i]; ++i)
      if (c == kFrom[i]) {
        out += kTo[i];
        return true;
      }
    uint32_t code;
    if (c != 'u' || !hex(code)) return fail("a text has an unknown escape");
    if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair
      uint32_t low;
      if (end_ - at_ < 6 || at_[0] != '\\' || at_[1] != 'u') return fail("half a character");
      at_ += 2;
      if (!hex(low) || low < 0xDC00 || low > 0xDFFF) return fail("half a character");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      return fail("half a character");
    }
    utf8(code, out);
    return true;
  }

  bool hex(uint32_t& code) {
    if (end_ - at_ < 4) return false;
    code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = *at_;
      const bool digit = c >= '0' && c <= '9', lower = c >= 'a' && c <= 'f',
                 upper = c >= 'A' && c <= 'F';
      if (!digit && !lower && !upper) return false;
      code = code * 16 + static_cast<uint32_t>(digit ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return true;
  }

  static void utf8(uint32_t code, std::string& out) {
    const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6));
      tail(0);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
      tail(6);
      tail(0);
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  const char *at_, *end_;
};

struct Entry {
  TensorView view;
  std::vector<int64_t> offsets;
};

bool read_notes(Json& json, std::map<std::string, std::string>& notes) {
  return json.object([&](const std::string& name) {
    std::string text;
    return json.string(text) &&
           (notes.emplace(name, text).second || json.fail("a name stands there twice"));
  });
}

bool read_entry(Json& json, Entry& entry) {
  return json.object([&](const std::string& name) {
    if (name == "dtype") return json.string(entry.view.dtype);
    if (name == "shape") return json.numbers(entry.view.shape);
    if (name == "data_offsets") return json.numbers(entry.offsets);
    return json.fail("unknown entry " + name);
  });
}

int64_t size_of(const std::string& dtype) {
  return dtype == "F16" ? 2 : dtype == "F32" ? 4 : dtype == "F64" || dtype == "I64" ? 8 : 0;
}

// Does the entry describe bytes of the file?
std::string check(const std::string& name, const Entry& entry, int64_t available) {
  const std::string tensor = "tensor '" + name + "'";
  const TensorView& v = entry.view;
  if (!size_of(v.dtype) || v.shape.size() > kMaxRank || entry.offsets.size() != 2)
    return "the entry of " + tensor + " in its header is not valid";
  int64_t size = size_of(v.dtype);
  for (int64_t n : v.shape) {
    if (n > 0 && size > kMaxSize / n) return tensor + " is too large";
    size *= n;
  }
  const int64_t bytes = entry.offsets[1] - entry.offsets[0];
  if (bytes != size)
    return tensor + " has " + std::to_string(bytes) + " bytes, its shape needs " +
           std::to_string(size);
  if (entry.offsets[1] > available) return "it is cut short: " + tensor + " ends beyond the file";
  return {};
}

}  // namespace

std::string parse_safetensors(const char* data, size_t size, Safetensors& out) {
  out = {};
  if (size < 8) return "it is cut short before the header";
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(data[i]);
  if (length > static_cast<uint64_t>(kMaxHeader))
    return "it doesn't begin with the length of a header, so it is no safetensors file";
  if (length > size - 8)
    return "it is cut short: the header has " + std::to_string(length) + " bytes";
  const char* base = data + 8 + length;
  const int64_t available = static_cast<int64_t>(size - 8 - length);
  if (available > kMaxSize) return "it is too large";
  std::map<std::string, Entry> entries;
  Json json(data + 8, base);
  const bool whole = json.object([&](const std::string& name) {
    if (name == "__metadata__")
      return out.notes.empty() ? read_notes(json, out.notes) : json.fail("two sets of notes");
    if (entries.count(name)) return json.fail("a name stands there twice");
    return read_entry(json, entries[name]);
  });
  if (!whole || !json.end()) return "its header is not valid (" + json.error + ")";
  std::vector<std::pair<std::vector<int64_t>, std::string>> spans;
  for (auto& [name, entry] : entries) {
    const std::string why = check(name, entry, available);
    if (!why.empty()) return why;
    entry.view.data = base + entry.offsets[0];
    entry.view.bytes = entry.offsets[1] - entry.offsets[0];
    spans.emplace_back(entry.offsets, name);
    out.tensors[name] = entry.view;
  }
  std::sort(spans.begin(), spans.end());
  int64_t at = 0;
  for (const auto& [offsets, name] : spans) {
    if (offsets[0] != at)
      return "tensor '" + name + "' begins at byte " + std::to_string(offsets[0]) +
             " of the data, not at " + std::to_string(at);
    at = offsets[1];
  }
  if (at != available) return std::to_string(available - at) + " bytes follow the last tensor";
  return {};
}

}  // namespace dom2
