// Generates models in Java, TypeScript and Go from an AsyncAPI document, into a folder of each.
import {
  GO_COMMON_PRESET,
  GoFileGenerator,
  GoGenerator,
  JAVA_JACKSON_PRESET,
  JavaFileGenerator,
  JavaGenerator,
  TypeScriptFileGenerator
} from '@asyncapi/modelina'
import { fromFile, Parser } from '@asyncapi/parser'

const ERROR = 0 // severity of a diagnostic
const [source, target] = process.argv.slice(2)
const { document, diagnostics } = await fromFile(new Parser(), source).parse()
for (const { severity, message, path } of diagnostics) {
  if (severity === ERROR) console.error(`${path.join('.')}: ${message}`)
}
if (!document) process.exit(1)

// An Identifier or a Position in an event or a query may be a string or an integer. A producer needs
// one form: the string is right in every language, and Java and Go have no type for both.
const TEXT = ['Identifier', 'Position']
const strings = ({ typeMapping: standard }, text) => {
  const mapped = (kind) => (context) => {
    const { name, originalInput } = context.constrainedModel
    return TEXT.includes(name) || TEXT.includes(originalInput?.title) ? text : standard[kind](context)
  }
  return { Union: mapped('Union'), Reference: mapped('Reference') }
}

const generators = {
  java: new JavaFileGenerator({
    collectionType: 'List',
    presets: [JAVA_JACKSON_PRESET],
    typeMapping: strings(JavaGenerator.defaultOptions, 'String')
  }),
  typescript: new TypeScriptFileGenerator({
    modelType: 'interface',
    enumType: 'union',
    moduleSystem: 'ESM',
    rawPropertyNames: true
  }),
  go: new GoFileGenerator({
    presets: [{ preset: GO_COMMON_PRESET, options: { addJsonTag: true } }],
    typeMapping: strings(GoGenerator.defaultOptions, 'string')
  })
}
for (const [language, generator] of Object.entries(generators)) {
  const options = { packageName: 'models', exportType: 'named' }
  const models = await generator.generateToFiles(document, `${target}/${language}/models`, options)
  const names = models.map(({ modelName }) => modelName).sort()
  console.log(JSON.stringify({ language, names }))
}
