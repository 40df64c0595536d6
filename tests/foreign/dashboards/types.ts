// What a dashboard's file may hold: Grafana's own types, as JSON writes them.
import type { Dashboard, DataQuery, Panel, RowPanel } from '@grafana/schema'
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen.d.ts'
import type {
  FieldConfig as TimeSeriesField,
  Options as TimeSeriesOptions
} from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts'

// An enumeration's values are plain strings in a file.
type Plain<T> = T extends string
  ? `${T}`
  : T extends object
    ? { [K in keyof T]: Plain<T[K]> }
    : T

// Grafana adds the defaults of what a file leaves out.
type Part<T> = T extends object ? { [K in keyof T]?: Part<T[K]> } : T

// The data source keeps its own fields beside those that all queries have.
type Query = Plain<DataQuery> & { expr: string; legendFormat?: string }

type Of<Type extends string, Options, Field> = Omit<
  Plain<Panel>,
  'type' | 'options' | 'targets' | 'fieldConfig'
> & {
  type: Type
  options?: Part<Plain<Options>>
  targets: Query[]
  fieldConfig: Omit<Plain<NonNullable<Panel['fieldConfig']>>, 'defaults'> & {
    defaults: Omit<Plain<NonNullable<Panel['fieldConfig']>['defaults']>, 'custom'> & {
      custom?: Part<Plain<Field>>
    }
  }
}

type Annotation = Plain<NonNullable<NonNullable<Dashboard['annotations']>['list']>[number]> & {
  expr: string
  titleFormat: string
  textFormat: string
}

export type Board = Omit<Plain<Dashboard>, 'panels' | 'annotations'> & {
  panels: (Plain<RowPanel> | Of<'stat', StatOptions, never> | Of<'timeseries', TimeSeriesOptions, TimeSeriesField>)[]
  annotations: { list: Annotation[] }
}
