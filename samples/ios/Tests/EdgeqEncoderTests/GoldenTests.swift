import EdgeqEncoder
import XCTest

/// Replays a bundle's golden vectors: `EDGEQ_BUNDLE=/path/to/bundle swift test`.
final class GoldenTests: XCTestCase {
    struct Index: Decodable {
        struct Case: Decodable { let id: String; let file: String; let token_ids: [[Int]]; let variants: [String] }
        let cases: [Case]
    }

    func testGoldenVectors() async throws {
        guard let path = ProcessInfo.processInfo.environment["EDGEQ_BUNDLE"] else {
            throw XCTSkip("set EDGEQ_BUNDLE to a bundle folder")
        }
        let bundle = try EdgeqBundle(folder: URL(fileURLWithPath: path))
        let encoder = try await Encoder(bundle: bundle)
        let golden = bundle.folder.appending(path: "golden")
        let index = try JSONDecoder().decode(
            Index.self, from: Data(contentsOf: golden.appending(path: "golden.json")))
        // A case that is longer than the variant takes holds no outputs of it.
        for item in index.cases where item.variants.contains(bundle.variant.id) {
            let name = "outputs/\(bundle.variant.id)/\(encoder.output)"
            let expected = try Npz.floats(named: name, in: golden.appending(path: item.file))
            try XCTSkipUnless(expected.shape.count == 2, "only pooled outputs [batch, hidden] are replayed here")
            let width = expected.shape[1]
            for (row, tokens) in item.token_ids.enumerated() {
                let found = try encoder.encode(tokens)
                let wanted = Array(expected.values[(row * width)..<((row + 1) * width)])
                // float16 on another processor: far above rounding, far below a wrong token or weight.
                XCTAssertGreaterThan(cosine(found, wanted), 0.999, "\(item.id), sample \(row)")
            }
        }
    }

    private func cosine(_ a: [Float], _ b: [Float]) -> Float {
        let dot = zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
        let norms = a.reduce(0) { $0 + $1 * $1 } * b.reduce(0) { $0 + $1 * $1 }
        return dot / norms.squareRoot()
    }
}
