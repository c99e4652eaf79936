// Codes shared by dom2_fast/ops/program.py and every executor.
#pragma once

namespace dom2 {

enum class Op : int { kLinear, kActivation, kAdd, kMul, kLayerNorm, kDropout, kCopy };
enum class Act : int { kNone, kMish, kSilu, kRelu, kGelu, kGeluTanh, kTanh, kSoftplus };
constexpr int kOps = 7, kActs = 8;

}  // namespace dom2
