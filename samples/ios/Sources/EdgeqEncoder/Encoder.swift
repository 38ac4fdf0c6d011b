import CoreML
import Foundation

/// Turns token ids into the model's output vector.
public final class Encoder {
    public enum Failure: Error { case noInput(String), tooLong(Int), noOutput(String) }

    private let model: MLModel
    private let padID: Int
    private let inputs: [String]
    private let lengths: [Int]
    public let output: String

    /// Compiles `Model.mlpackage` on the device. An app should rather add the package to its Xcode target,
    /// so that Xcode compiles it, and load the resulting `Model.mlmodelc` with `MLModel(contentsOf:)`.
    public init(bundle: EdgeqBundle, units: MLComputeUnits = .all) async throws {
        let package = bundle.folder.appending(path: bundle.model)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        let compiled = try await MLModel.compileModel(at: package)
        model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
        padID = bundle.padID
        inputs = bundle.variant.inputs.map(\.name)
        output = bundle.variant.outputs[0].name
        let description = model.modelDescription.inputDescriptionsByName["input_ids"]
        guard let constraint = description?.multiArrayConstraint else { throw Failure.noInput("input_ids") }
        let enumerated = constraint.shapeConstraint.enumeratedShapes
        lengths = (enumerated.isEmpty ? [constraint.shape] : enumerated).map { $0[1].intValue }.sorted()
    }

    /// - Parameter tokens: ids with the special ones, as in `golden/golden.json`.
    public func encode(_ tokens: [Int]) throws -> [Float] {
        guard let length = lengths.first(where: { $0 >= tokens.count }) else { throw Failure.tooLong(tokens.count) }
        var features: [String: MLFeatureValue] = [:]
        for name in inputs {
            let array = try MLMultiArray(shape: [1, NSNumber(value: length)], dataType: .int32)
            for position in 0..<length {
                let real = position < tokens.count
                let value: Int
                switch name {
                case "input_ids": value = real ? tokens[position] : padID
                case "attention_mask": value = real ? 1 : 0
                default: value = 0 // token_type_ids of a single text
                }
                array[position] = NSNumber(value: value)
            }
            features[name] = MLFeatureValue(multiArray: array)
        }
        let found = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: features))
        guard let values = found.featureValue(for: output)?.multiArrayValue else { throw Failure.noOutput(output) }
        return (0..<values.count).map { values[$0].floatValue }
    }
}
