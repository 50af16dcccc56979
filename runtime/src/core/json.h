// JSON for plans and file headers: a reader with limits on depth and size, and a writer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::core {

class Json {
  public:
    enum class Kind : uint8_t { Null, Bool, Integer, Real, String, Array, Object };
    using Member = std::pair<std::string, Json>;

    Json() = default;
    static Json boolean(bool value);
    static Json integer(int64_t value);
    static Json real(double value);
    static Json string(std::string value);
    static Json array();
    static Json object();

    // Parses one value. `what` names the text in errors (FormatError with the byte offset). Rejects duplicate
    // member names, numbers out of range, invalid UTF-8, nesting deeper than `max_depth`, more than `max_values` values.
    static Json parse(std::string_view text, const std::string &what, int max_depth = 64,
                      int64_t max_values = 4'000'000);

    Kind kind() const { return kind_; }
    const char *kind_name() const;
    bool is_null() const { return kind_ == Kind::Null; }
    bool is_bool() const { return kind_ == Kind::Bool; }
    bool is_integer() const { return kind_ == Kind::Integer; }
    bool is_number() const { return kind_ == Kind::Integer || kind_ == Kind::Real; }
    bool is_string() const { return kind_ == Kind::String; }
    bool is_array() const { return kind_ == Kind::Array; }
    bool is_object() const { return kind_ == Kind::Object; }

    // Values; the kind must be right (the caller has checked it).
    bool as_bool() const { return integer_ != 0; }
    int64_t as_integer() const { return integer_; }
    double as_real() const { return kind_ == Kind::Integer ? static_cast<double>(integer_) : real_; }
    const std::string &as_string() const { return string_; }
    const std::vector<Json> &items() const { return items_; }
    const std::vector<Member> &members() const { return members_; }

    // The member of that name, or null.
    const Json *find(std::string_view name) const;

    void push(Json value) { items_.push_back(std::move(value)); }
    void set(std::string name, Json value) { members_.emplace_back(std::move(name), std::move(value)); }

    // Compact text.
    std::string dump() const;

  private:
    friend class JsonParser;
    Kind kind_ = Kind::Null;
    int64_t integer_ = 0;
    double real_ = 0;
    std::string string_;
    std::vector<Json> items_;
    std::vector<Member> members_;
};

// Appends `text` as a JSON string literal, quotes included.
void append_json_string(std::string &out, std::string_view text);

} // namespace tessera::core
