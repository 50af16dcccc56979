// Members of a plan's JSON objects, with errors that name the place.
#pragma once

#include <string>
#include <vector>

#include "core/dims.h"
#include "core/error.h"
#include "core/json.h"
#include "core/tensor.h"

namespace tessera::core {

class PlanFields {
  public:
    // `where` names the plan; the symbols are those of its expressions.
    PlanFields(const std::string &where, const SymbolTable *symbols) : where_(where), symbols_(symbols) {}

    [[noreturn]] void error(const std::string &place, const std::string &why) const {
        fail(Code::Format, "%s: %s: %s", where_.c_str(), place.c_str(), why.c_str());
    }

    void expect(bool condition, const std::string &place, const std::string &why) const {
        if (!condition)
            error(place, why);
    }

    const Json &member(const Json &object, const char *name, const std::string &place) const {
        expect(object.is_object(), place, "is not an object");
        const Json *found = object.find(name);
        expect(found, place, format("'%s' is missing", name));
        return *found;
    }

    const Json &list(const Json &object, const char *name, const std::string &place) const {
        const Json &j = member(object, name, place);
        expect(j.is_array(), place, format("'%s' is not a list", name));
        return j;
    }

    std::string text(const Json &object, const char *name, const std::string &place) const {
        const Json &j = member(object, name, place);
        expect(j.is_string(), place, format("'%s' is not text", name));
        return j.as_string();
    }

    std::string optional_text(const Json &object, const char *name, const std::string &place) const {
        const Json *j = object.find(name);
        if (!j || j->is_null())
            return {};
        expect(j->is_string(), place, format("'%s' is not text", name));
        return j->as_string();
    }

    int64_t integer(const Json &object, const char *name, const std::string &place) const {
        const Json &j = member(object, name, place);
        expect(j.is_integer(), place, format("'%s' is not an integer", name));
        return j.as_integer();
    }

    bool flag(const Json &object, const char *name, const std::string &place) const {
        const Json *j = object.find(name);
        expect(!j || j->is_bool(), place, format("'%s' is not true or false", name));
        return j && j->as_bool();
    }

    Dim dim(const Json &j, const std::string &place) const {
        if (j.is_integer())
            return Dim(j.as_integer());
        expect(j.is_string(), place, "a size is neither an integer nor an expression");
        try {
            return Dim::parse(j.as_string(), *symbols_);
        } catch (const Error &e) {
            error(place, e.message());
        }
    }

    std::vector<Dim> dims(const Json &object, const char *name, const std::string &place) const {
        std::vector<Dim> out;
        for (const Json &j : list(object, name, place).items())
            out.push_back(dim(j, place));
        return out;
    }

    std::vector<Dim> shape(const Json &object, const std::string &place) const {
        std::vector<Dim> out = dims(object, "shape", place);
        expect(out.size() <= static_cast<size_t>(max_rank), place, format("rank %zu is too high", out.size()));
        for (const Dim &d : out)
            expect(!d.is_constant() || d.constant() >= 0, place, "a size is negative");
        return out;
    }

    int64_t bounded(const Json &object, const char *name, int64_t low, int64_t high, const std::string &place) const {
        expect(object.is_object(), place, "is not an object");
        int64_t value = integer(object, name, place);
        expect(value >= low && value <= high, place,
               format("'%s' is %lld, expected %lld to %lld", name, static_cast<long long>(value), static_cast<long long>(low),
                      static_cast<long long>(high)));
        return value;
    }

    double number(const Json &object, const char *name, double otherwise, const std::string &place) const {
        const Json *j = object.find(name);
        expect(!j || j->is_number(), place, format("'%s' is not a number", name));
        return j ? j->as_real() : otherwise;
    }

  protected:
    const std::string &where_;

  private:
    const SymbolTable *symbols_;
};

} // namespace tessera::core
